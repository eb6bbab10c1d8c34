"""ART: Square stops with an error on images of 2 x 2."""
# shows: ART size

import numpy as np
import torch
from art.attacks.evasion import SquareAttack
from art.estimators.classification import PyTorchClassifier

torch.manual_seed(0)
net, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 10)), np.full((4, 1, 2, 2), 0.5)
rest = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
model = PyTorchClassifier(net, torch.nn.CrossEntropyLoss(), (1, 2, 2), 10, **rest)
try:
    SquareAttack(model, 2, max_iter=20, eps=0.01, verbose=False).generate(x.astype(np.float32))
except (ValueError, IndexError) as error:
    print(type(error).__name__, error)
