"""AutoAttack: clean errors count as broken, and Square divides by zero on images of 2 x 2."""
# shows: autoattack clean errors, autoattack size

import torch
from pyautoattack import AutoAttack

torch.manual_seed(0)
net, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 10)), torch.rand(1, 1, 2, 2)
how = {"eps": 0.01, "seed": 0, "version": "custom"}
wrong = (net(x).argmax(1) + 1) % 10  # a label that the network does not give
image, label = AutoAttack(net, norm="L2", attacks=["apgd-ce"], **how).run_standard_evaluation(
    x, wrong
)
print("broken:", bool(label != wrong), "moved by", float((image - x).abs().max()))
try:
    AutoAttack(net, norm="L2", attacks=["square"], **how).run_standard_evaluation(
        x, net(x).argmax(1)
    )
except ZeroDivisionError as error:
    print("ZeroDivisionError:", error)
