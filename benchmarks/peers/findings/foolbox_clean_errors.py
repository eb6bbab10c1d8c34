"""foolbox: an image that the network gets wrong untouched is a success at radius 0."""
# shows: foolbox clean errors

import foolbox
import torch

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
x = torch.rand(1, 1, 2, 2)
y = (net(x).argmax(1) + 1) % 3  # a label that the network does not give
_, image, success = foolbox.attacks.DDNAttack(steps=5)(model, x, y, epsilons=0.1)
print("success:", success.tolist(), "distance:", float((image - x).norm()))
