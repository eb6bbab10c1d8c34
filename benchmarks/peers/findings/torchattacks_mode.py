"""torchattacks: a part that was frozen in evaluation mode comes back in training mode."""
# shows: torchattacks mode

import torch
import torchattacks

net = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
net.train()
net[0].eval()  # a frozen batch norm
print("before:", net[0].training)
torchattacks.PGD(net, 0.1, 0.05, 3)(torch.rand(1, 1, 2, 2), torch.tensor([0]))
print("after:", net[0].training)
