"""Minimum-norm searches that come home with the clean image from a border that is near."""
# shows: foolbox unmoved, adv-lib unmoved, torchattacks unmoved

import foolbox
import torch
import torchattacks
from adv_lib.attacks import fmn

torch.manual_seed(0)
net, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)), torch.full((1, 1, 4, 4), 0.5)
net[1].weight.data.zero_()[1] = torch.randn(16)
net[1].bias.data = torch.tensor([0.0, -0.1 - 0.5 * float(net[1].weight[1].sum())] + 8 * [-50.0])
y, d = torch.tensor([0]), 0.1 / float(net[1].weight[1].abs().max())
model = foolbox.PyTorchModel(net.eval(), bounds=(0, 1), device="cpu")
found = {"foolbox FMN": foolbox.attacks.L1FMNAttack(steps=40)(model, x, y, epsilons=1.0)[0]}
found["adv-lib FMN"] = fmn(net, x, y, norm=1, steps=40)
found["torchattacks EADL1"] = torchattacks.EADL1(net, binary_search_steps=2, max_iterations=20)(x, y)
for name, image in found.items():
    print(name, f"moved by {float((image - x).abs().sum()):.3f} in l_1, border at {d:.3f}")
