"""ART: PGD returns its last image, also where one before it had succeeded."""
# shows: ART forgets

import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier

torch.manual_seed(0)
asked, first, last = [], torch.nn.Linear(4, 32), torch.nn.Linear(32, 10)
first.weight.data *= 6
net = torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), last).eval()
x, rest = torch.rand(2000, 1, 2, 2), {"clip_values": (0.0, 1.0), "device_type": "cpu"}
y, good = net(x).argmax(1), torch.zeros(2000, dtype=torch.bool)
net[0].register_forward_hook(lambda m, given, flat: asked.append(given[0].detach().clone()))
model = PyTorchClassifier(net, torch.nn.CrossEntropyLoss(), (1, 2, 2), 10, **rest)
attack = ProjectedGradientDescent(model, 2, 0.1, 0.07, max_iter=9, batch_size=2000, verbose=False)
image = torch.from_numpy(attack.generate(x.numpy(), y.numpy()))
for seen in [a for a in asked if len(a) == 2000]:
    good |= (net(seen).argmax(1) != y) & ((seen - x).flatten(1).norm(dim=1) <= 0.1)
print("broke", int(good.sum()), "on the way, lost", int((good & (net(image).argmax(1) == y)).sum()))
