"""CleverHans and ART: one step in l_1 goes to a pixel that is at its wall: nothing moves."""
# shows: cleverhans no-op, ART no-op

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method

net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
net[1].weight.data = torch.tensor([[0.0, 0, 0, 0], [-2, 1, 1, 1]])  # the first pixel matters most
x, y = torch.tensor([[[[0.0, 0.5], [0.5, 0.5]]]]), torch.tensor([0])  # and is black already
image = fast_gradient_method(net, x, 0.5, 1, clip_min=0.0, clip_max=1.0, y=y)
print("cleverhans moved by", float((image - x).abs().sum()))
rest = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
model = PyTorchClassifier(net, torch.nn.CrossEntropyLoss(), (1, 2, 2), 2, **rest)
image = FastGradientMethod(model, 1, 0.5).generate(x.numpy(), np.array([0]))
print("ART moved by", float(np.abs(image - x.numpy()).sum()))
