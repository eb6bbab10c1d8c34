"""CleverHans: sparse descent returns its last image, also where one before it had succeeded."""
# shows: cleverhans forgets

import torch
from cleverhans.torch.attacks.sparse_l1_descent import sparse_l1_descent

torch.manual_seed(0)
first, second = torch.nn.Linear(16, 32), torch.nn.Linear(32, 10)
net = lambda x: second(torch.relu(first(x.flatten(1) * 8)))
lost = found = 0
for _ in range(200):
    x, asked = torch.rand(1, 1, 4, 4), []
    y = net(x).argmax(1)
    spy = lambda image, asked=asked: (asked.append(image.detach().clone()), net(image))[1]
    image = sparse_l1_descent(spy, x, 1.0, 0.5, 9, y=y, clip_min=0.0, clip_max=1.0)
    good = [bool(net(a).argmax(1) != y) and float((a - x).abs().sum()) <= 1 for a in asked]
    found, lost = found + any(good), lost + (any(good) and bool(net(image).argmax(1) == y))
print(f"of {found} images that some step broke, {lost} came back unbroken")
