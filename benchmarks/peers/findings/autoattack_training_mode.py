"""AutoAttack: a network in training mode is attacked so, and its running mean moves."""
# shows: autoattack training mode

import torch
from pyautoattack import AutoAttack

net = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10))
x, y = torch.rand(8, 1, 4, 4), torch.arange(8)
attack = AutoAttack(net, norm="Linf", eps=0.1, seed=0, version="custom", attacks=["apgd-ce"])
attack.apgd.perturb(x, y)
print("moved the running mean:", float(net[0].running_mean) != 0)
