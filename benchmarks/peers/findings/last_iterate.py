"""torchattacks and foolbox: the last image is returned, also where one before it had succeeded."""
# shows: torchattacks forgets, foolbox forgets

import foolbox
import torch
import torchattacks

torch.manual_seed(0)
asked, first, last = [], torch.nn.Linear(4, 32), torch.nn.Linear(32, 10)
first.weight.data *= 6
net = torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), last).eval()
net.register_forward_hook(
    lambda module, given, logits: asked.append((given[0].detach().clone(), logits.argmax(1)))
)
x, model = torch.rand(2000, 1, 2, 2), foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
y = net(x).argmax(1)
slide = foolbox.attacks.SparseL1DescentAttack(steps=9, rel_stepsize=0.5, quantile=0.5)
runs = {
    "torchattacks RFGSM": (lambda: torchattacks.RFGSM(net, 0.1, 0.07, 9)(x, y), float("inf"), 0.1)
}
runs["foolbox SLIDE"] = (lambda: slide(model, x, y, epsilons=0.3)[1], 1, 0.3)
for name, (run, p, eps) in runs.items():
    asked.clear()
    image, good = run(), torch.zeros(2000, dtype=torch.bool)
    for a, label in asked:
        good |= (label != y) & ((a - x).flatten(1).norm(p, 1) <= eps * 1.00001)
    print(
        name,
        "broke",
        int(good.sum()),
        "on the way, lost",
        int((good & (net(image).argmax(1) == y)).sum()),
    )
