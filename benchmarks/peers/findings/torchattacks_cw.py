"""torchattacks: CW takes the zeros of its mask for logits, and does nothing where all are negative."""
# shows: torchattacks no-op

import torch
import torchattacks

torch.manual_seed(0)
net, x = (
    torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval(),
    torch.rand(100, 1, 4, 4),
)
for name, last in (("logits", torch.nn.Identity()), ("the same less 10", lambda z: z - 10)):
    whole = torch.nn.Sequential(net)
    whole.forward = lambda x, last=last: last(net(x))
    y = whole(x).argmax(1)
    image = torchattacks.CW(whole, c=10, steps=100)(x, y)
    print(
        name,
        "broken:",
        int((whole(image).argmax(1) != y).sum()),
        "moved:",
        int((image != x).flatten(1).any(1).sum()),
    )
