"""foolbox: PGD in l_1 shares its step among all pixels and gets little of a linear model."""
# shows: foolbox gap

import foolbox
import torch

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 2)).eval()
x, w = torch.full((1, 1, 10, 10), 0.5), net[1].weight.detach()
model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
image, _, _ = foolbox.attacks.L1PGD(steps=100)(model, x, torch.tensor([0]), epsilons=2.0)
gain = float(((image - x).flatten() * (w[1] - w[0])).sum())
best = float(0.5 * (w[1] - w[0]).abs().topk(4).values.sum())
print(f"gain of the logit {gain:.3f}, best possible in the ball {best:.3f}")
