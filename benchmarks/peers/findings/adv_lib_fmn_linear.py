"""adversarial-library: FMN in l_2 ends at the border of a linear model and returns the image."""
# shows: adv-lib gap

import torch
from adv_lib.attacks import fmn

torch.manual_seed(0)
w = torch.randn(1, 4, 4)
net = lambda x: torch.stack([0 * (x * w).sum((1, 2, 3)), ((x - 0.5) * w).sum((1, 2, 3)) - 0.3], 1)
x = torch.full((1, 1, 4, 4), 0.5)  # the border is 0.3 / |w| away
for steps in (10, 100, 1000):
    image = fmn(net, x, torch.tensor([0]), norm=2, steps=steps)
    print(steps, "steps: moved by", float((image - x).norm()), "border at", float(0.3 / w.norm()))
