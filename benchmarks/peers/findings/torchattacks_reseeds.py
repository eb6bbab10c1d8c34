"""torchattacks: APGD sets the global random generator, so that what is drawn afterwards repeats."""
# shows: torchattacks reseeds

import torch
import torchattacks

torch.manual_seed(0)
net, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)), torch.rand(4, 1, 4, 4)
for seed in (1, 2):
    torch.manual_seed(seed)
    torchattacks.APGD(net, "Linf", 0.05, steps=5, seed=0)(x, net(x).argmax(1))
    print("seed", seed, "then draws", float(torch.rand(())))
