"""foolbox: SLIDE leaves its l_1 ball; what it returns as clipped is shortened afterwards."""
# shows: foolbox ball

import foolbox
import torch

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
attack = foolbox.attacks.SparseL1DescentAttack(steps=20, quantile=0.5)
raw, clipped, _ = attack(model, x, y, epsilons=0.5)
for name, image in (("raw", raw), ("clipped", clipped)):
    print(name, f"length {float((image - x).abs().sum()):.4f} for radius 0.5")
