"""torchattacks: the last image is returned, also where one before it had succeeded."""
# shows: torchattacks forgets

import torch
import torchattacks

torch.manual_seed(0)
asked, first, last = [], torch.nn.Linear(4, 32), torch.nn.Linear(32, 10)
first.weight.data *= 6
net = torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), last).eval()
net.register_forward_hook(lambda m, given, logits: asked.append((given[0].detach().clone(), logits)))
x = torch.rand(2000, 1, 2, 2)
y = net(x).argmax(1)
image, good = torchattacks.RFGSM(net, 0.1, 0.07, 9)(x, y), torch.zeros(2000, dtype=torch.bool)
for seen, logits in asked[1:]:
    good |= (logits.argmax(1) != y) & ((seen - x).abs().flatten(1).amax(1) <= 0.1)
print("broke", int(good.sum()), "on the way, lost", int((good & (net(image).argmax(1) == y)).sum()))
