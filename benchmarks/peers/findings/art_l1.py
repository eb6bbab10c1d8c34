"""ART: PGD and Auto-PGD in l_1 get little of a linear model."""
# shows: ART gap, ART weak

import torch
from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier

torch.manual_seed(0)
net, x = (
    torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 10)).eval(),
    torch.full((1, 1, 10, 10), 0.5),
)
y = net(x).argmax(1)
rest = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
model = PyTorchClassifier(net, torch.nn.CrossEntropyLoss(), (1, 10, 10), 10, **rest)
for kind in (ProjectedGradientDescent, AutoProjectedGradientDescent):
    made = kind(model, norm=1, eps=2.0, eps_step=0.5, max_iter=100, verbose=False)
    image = torch.from_numpy(made.generate(x.numpy(), y.numpy()))
    w = net[1].weight.detach()
    lead = lambda d: float(((w - w[y]) @ d.flatten()).max())
    best = max(float(0.5 * (row - w[y][0]).abs().topk(4).values.sum()) for row in w)
    print(kind.__name__, f"gain {lead(image - x):.3f}, best possible {best:.3f}")
