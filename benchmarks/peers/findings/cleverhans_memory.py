"""CleverHans: PGD in l_2 keeps memory at every call; in l_inf it does not."""
# shows: cleverhans memory

import gc
import resource

import numpy as np
import torch
from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

net, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), torch.rand(1, 1, 2, 2)
for norm in (np.inf, 2):
    for call in range(150):
        projected_gradient_descent(net, x, 0.1, 0.05, 20, norm, y=torch.tensor([0]))
        if call in (49, 149):
            gc.collect()
            print(norm, call + 1, "calls:", resource.getrusage(0).ru_maxrss // 1024, "MB")
