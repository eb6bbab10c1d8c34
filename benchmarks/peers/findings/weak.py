"""Attacks that break few of what Auto-PGD of adversarial-library breaks with as many gradients."""
# shows: foolbox weak, adv-lib weak, torchattacks weak

import foolbox
import torch
import torchattacks
from adv_lib.attacks import apgd, pdpgd

torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
).eval()
net[1].weight.data *= 4
x = torch.rand(200, 1, 8, 8)
y, model = net(x).argmax(1), foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
broken = lambda image, p, eps: int(
    ((net(image).argmax(1) != y) & ((image - x).flatten(1).norm(p, 1) <= eps * 1.0001)).sum()
)
print("l_2 Auto-PGD", broken(apgd(net, x, y, 0.2, 2, n_iter=40), 2, 0.2), end=", ")
print(
    "foolbox PGD",
    broken(foolbox.attacks.L2PGD(steps=40)(model, x, y, epsilons=0.2)[1], 2, 0.2),
    end=", ",
)
print("adv-lib PDPGD", broken(pdpgd(net, x, y, norm=2, num_steps=40), 2, 0.2), end=", ")
print("torchattacks DeepFool", broken(torchattacks.DeepFool(net, steps=40)(x, y), 2, 0.2))
inf = float("inf")
print("l_inf Auto-PGD", broken(apgd(net, x, y, 0.03, inf, n_iter=40), inf, 0.03), end=", ")
print("torchattacks NIFGSM", broken(torchattacks.NIFGSM(net, 0.03, 0.0075, 40)(x, y), inf, 0.03))
