"""torchattacks and AutoAttack: Square in l_2 divides by zero on images of 2 x 2."""
# shows: torchattacks size

import torch
import torchattacks

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 10)).eval()
x = torch.rand(1, 1, 2, 2)
try:
    torchattacks.Square(net, "L2", 0.1, n_queries=5)(x, net(x).argmax(1))
except ZeroDivisionError as error:
    print("ZeroDivisionError:", error)
