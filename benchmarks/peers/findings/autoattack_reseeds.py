"""AutoAttack: sets the global random generator, so that what is drawn afterwards repeats."""
# shows: autoattack reseeds

import torch
from pyautoattack import AutoAttack

torch.manual_seed(0)
net, x = (
    torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval(),
    torch.rand(4, 1, 4, 4),
)
for seed in (1, 2):
    torch.manual_seed(seed)
    how = {"eps": 0.05, "seed": 0, "version": "custom", "attacks": ["apgd-ce"], "device": "cpu"}
    AutoAttack(net, norm="Linf", **how).run_standard_evaluation(x, net(x).argmax(1))
    print("seed", seed, "then draws", float(torch.rand(())))
