"""foolbox, CleverHans and adversarial-library: a network in training mode is attacked so."""
# shows: foolbox training mode, cleverhans training mode, adv-lib training mode

import foolbox
import numpy as np
import torch
from adv_lib.attacks import pgd_linf
from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

x, y = torch.rand(8, 1, 2, 2), torch.arange(8) % 3
for name in ("foolbox", "cleverhans", "adv-lib"):
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    if name == "foolbox":
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
        foolbox.attacks.LinfPGD(steps=3)(model, x, y, epsilons=0.1)
    elif name == "cleverhans":
        projected_gradient_descent(net, x, 0.1, 0.05, 3, np.inf, y=y)
    else:
        pgd_linf(net, x, y, 0.1, steps=3)
    print(name, "moved the running mean:", float(net[0].running_mean) != 0)
