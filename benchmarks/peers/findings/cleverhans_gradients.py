"""CleverHans: PGD leaves gradients in the weights, and its images hold the graph."""
# shows: cleverhans gradients, cleverhans graph

import numpy as np
import torch
from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
x, y = torch.rand(1, 1, 2, 2), torch.tensor([0])
image = projected_gradient_descent(net, x, 0.1, 0.05, 5, np.inf, y=y)
print("gradient left in the weights:", float(net[1].weight.grad.abs().max()) > 0)
print("the image asks for gradients:", image.requires_grad)
