"""AutoAttack: Square returns some images as they were where a fifth of what it may do is enough."""
# shows: autoattack unmoved

import torch
from pyautoattack import AutoAttack

same = 0
for seed in range(50):
    torch.manual_seed(seed)
    w, x = torch.randn(16), torch.rand(1, 1, 4, 4)
    room = torch.where(w > 0, 1 - x.flatten(), x.flatten()).clamp(max=0.075)
    border = float(x.flatten() @ w) + 0.2 * float(room @ w.abs())
    lead = lambda z, w=w, border=border: z.flatten(1) @ w - border
    net = lambda z, lead=lead: torch.stack([0 * lead(z), lead(z)] + 8 * [0 * lead(z) - 50], 1)
    attack = AutoAttack(net, norm="Linf", eps=0.075, seed=0, version="custom", attacks=["square"], device="cpu")
    attack.verbose, attack.square.n_queries = False, 80
    image = attack.run_standard_evaluation(x, torch.tensor([0]))[0]
    same += bool(torch.equal(image, x))
print("of 50 images", same, "came back as they were")
