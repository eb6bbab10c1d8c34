"""torchattacks: images of APGD ask for gradients."""
# shows: torchattacks graph

import torch
import torchattacks

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval()
x = torch.rand(4, 1, 4, 4)
image = torchattacks.APGD(net, "Linf", 0.1, steps=5)(x, net(x).argmax(1))
print("the images ask for gradients:", image.requires_grad)
