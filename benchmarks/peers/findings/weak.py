"""Attacks that break few of what Auto-PGD of adversarial-library breaks with as many gradients."""
# shows: foolbox weak, adv-lib weak, torchattacks weak

import foolbox
import torch
import torchattacks
from adv_lib.attacks import apgd, pdpgd

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
net.eval()[1].weight.data *= 4
x, inf = torch.rand(200, 1, 8, 8), float("inf")
y, model = net(x).argmax(1), foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
found = {"l_2 Auto-PGD": (apgd(net, x, y, 0.2, 2, n_iter=40), 2, 0.2)}
found["foolbox l_2 PGD"] = (foolbox.attacks.L2PGD(steps=40)(model, x, y, epsilons=0.2)[1], 2, 0.2)
found["adv-lib l_2 PDPGD"] = (pdpgd(net, x, y, norm=2, num_steps=40), 2, 0.2)
found["l_inf Auto-PGD"] = (apgd(net, x, y, 0.03, inf, n_iter=40), inf, 0.03)
found["torchattacks l_inf NIFGSM"] = (torchattacks.NIFGSM(net, 0.03, 0.0075, 40)(x, y), inf, 0.03)
for name, (image, p, eps) in found.items():
    inside = (image - x).flatten(1).norm(p, 1) <= eps * 1.0001
    print(name, "broke", int((inside & (net(image).argmax(1) != y)).sum()), "of 200")
