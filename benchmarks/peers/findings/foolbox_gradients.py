"""foolbox: PGD leaves gradients in the weights of the network."""
# shows: foolbox gradients

import foolbox
import torch

net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
x, y = torch.rand(1, 1, 2, 2), torch.tensor([0])
print("before:", net[1].weight.grad)
foolbox.attacks.LinfPGD(steps=5)(model, x, y, epsilons=0.1)
print("after, largest:", float(net[1].weight.grad.abs().max()) > 0)
