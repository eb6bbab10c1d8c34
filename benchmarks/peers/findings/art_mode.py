"""ART: leaves the network in evaluation mode, and gradients in its weights."""
# shows: ART mode, ART gradients

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier

net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).train()
model = PyTorchClassifier(net, torch.nn.CrossEntropyLoss(), (1, 2, 2), 3, device_type="cpu")
ProjectedGradientDescent(model, np.inf, 0.1, 0.05, 5, verbose=False).generate(
    np.full((1, 1, 2, 2), 0.5, np.float32), np.array([0])
)
print("training:", net[1].training, "gradient:", float(net[1].weight.grad.abs().max()) > 0)
