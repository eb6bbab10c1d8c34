"""foolbox: SLIDE returns its last image, also where one before it had succeeded."""
# shows: foolbox forgets

import foolbox
import torch

torch.manual_seed(0)
asked, first, last = [], torch.nn.Linear(4, 32), torch.nn.Linear(32, 10)
first.weight.data *= 6
net = torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), last).eval()
net.register_forward_hook(lambda m, given, logits: asked.append((given[0].detach().clone(), logits)))
x, model = torch.rand(2000, 1, 2, 2), foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
y, good = net(x).argmax(1), torch.zeros(2000, dtype=torch.bool)
attack = foolbox.attacks.SparseL1DescentAttack(steps=9, rel_stepsize=0.5, quantile=0.5)
image = attack(model, x, y, epsilons=0.3)[1]
for seen, logits in asked[1:]:
    good |= (logits.argmax(1) != y) & ((seen - x).abs().flatten(1).sum(1) <= 0.3)
print("broke", int(good.sum()), "on the way, lost", int((good & (net(image).argmax(1) == y)).sum()))
