"""torchattacks: DeepFool and EAD end far from the border of a linear model in the box, or short of it."""
# shows: torchattacks gap

import torch
import torchattacks

torch.manual_seed(0)
w, x = torch.randn(25), torch.rand(1, 1, 5, 5)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(25, 10)).eval()
net[1].weight.data.zero_()[1] = w
room, three = torch.where(w > 0, 1 - x.flatten(), x.flatten()), w.abs().argsort(descending=True)[:3]
need = 0.999 * float((w.abs() * room)[three].sum())  # three pixels at their walls are beyond the border
net[1].bias.data = torch.tensor([0.0, -float(x.flatten() @ w) - need] + 8 * [-50.0])
found = {"EAD": (torchattacks.EADL1(net, max_iterations=20)(x, torch.tensor([0])), 1)}
found["DeepFool"] = (torchattacks.DeepFool(net, steps=10)(x, torch.tensor([0])), 2)
for name, (image, p) in found.items():
    enough, length = float(room[three].norm(p)), float((image - x).norm(p))
    print(f"{name} crosses:", bool(net(image).argmax() == 1), f"length {length:.2f}, {enough:.2f} is enough")
