"""torchattacks: FAB in l_1 stops with an error."""
# shows: torchattacks raises

import torch
import torchattacks

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval()
x = torch.rand(4, 1, 4, 4)
try:
    torchattacks.FAB(net, "L1", 0.5, steps=5)(x, net(x).argmax(1))
except UnboundLocalError as error:
    print("UnboundLocalError:", error)
