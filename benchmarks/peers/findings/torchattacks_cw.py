"""torchattacks: CW takes the zeros of its mask for logits, and does nothing where all are negative."""
# shows: torchattacks no-op

import torch
import torchattacks

torch.manual_seed(0)
net, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval(), torch.rand(100, 1, 4, 4)
for name in ("logits", "the same less 10"):
    y = net(x).argmax(1)
    image = torchattacks.CW(net, c=10, steps=100)(x, y)
    broken, moved = net(image).argmax(1) != y, (image != x).flatten(1).any(1)
    print(name, "broken:", int(broken.sum()), "moved:", int(moved.sum()), "of 100")
    net[1].bias.data -= 10
