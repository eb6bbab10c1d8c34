"""A toy library of attacks: one that is right, its faults one by one, and closed forms.

It shares no line with the attacks of the package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpkit.audit import Task

LEAK: list[Tensor] = []
"""What the fault "memory" keeps at every call."""


def shortened(d: Tensor, task: Task, eps: float, one_too_many: bool = False) -> Tensor:
    """The nearest point of the ball, by sorting; or the common fault of that in l_1."""
    rows = d.double().flatten(1)
    if task.norm == "linf":
        rows = rows.clamp(-eps, eps)
    elif task.norm == "l2":
        rows = rows * (eps / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
    else:
        size = rows.abs()
        order = size.sort(1, descending=True).values
        count = torch.arange(1, size.shape[1] + 1)
        levels = (order.cumsum(1) - eps) / count
        active = (order > levels).sum(1, keepdim=True)
        chosen = (active if one_too_many else active - 1).clamp(max=size.shape[1] - 1)
        level = levels.gather(1, chosen).clamp(min=0)
        rows = (size - level).clamp(min=0) * rows.sign()
    return rows.view(d.shape).to(d.dtype)


def step(g: Tensor, image: Tensor, task: Task, length: float, blind: bool = False) -> Tensor:
    """Steepest ascent in the ball of the task; in l_1 the pixel must have room, unless blind."""
    rows = g.flatten(1)
    if task.norm == "linf":
        move = rows.sign()
    elif task.norm == "l2":
        move = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    else:
        room = torch.where(g > 0, 1 - image, image).flatten(1) > (-1.0 if blind else 1e-6)
        best = (rows.abs() * room).argmax(1)
        move = nn.functional.one_hot(best, rows.shape[1]) * rows.sign()
    return length * move.view(g.shape)


def attack(*faults: str) -> Callable[[nn.Module, Tensor, Tensor, Task], Any]:
    """Projected ascent that keeps the best point, with some faults planted.

    Args:
        faults: any of ball (longer by 1e-4 of the radius), box, numbers, threshold (one entry too
            many in the projection of l_1), flag, clean errors, no-op, raises, size, forgets (the
            last image in place of one that succeeded), gap (in l_1 steps at pixels without room),
            seed (which is ignored), reseeds, gradients, mode, training mode, inputs, memory, graph.

    Returns: a function of model, images, labels and task, for an audit.
    """

    def call(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Any:
        modes = [(module, module.training) for module in model.modules()]
        if "training mode" not in faults:
            model.eval()
        found = _search(model, x, y, task, faults)
        if "mode" not in faults:
            for module, mode in modes:
                module.training = mode
        return found

    return call


def _search(model: nn.Module, x: Tensor, y: Tensor, task: Task, faults: tuple[str, ...]) -> Any:
    if "no-op" in faults:
        return x.clone(), torch.zeros_like(y, dtype=torch.bool)
    if "raises" in faults:
        raise ZeroDivisionError("of nothing")
    if "size" in faults and x.shape[3] < 4:
        raise IndexError("too small")
    if "reseeds" in faults:
        torch.manual_seed(7)
    rng = torch.Generator().manual_seed(task.seed)
    drawn = torch.randn(x.shape) if "seed" in faults else torch.randn(x.shape, generator=rng)
    eps = task.eps * (1 - 1e-6 + 1.01e-4 * ("ball" in faults))
    kept, reached = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    z = 0.1 * eps * drawn
    for k in range(task.steps + 1):
        z = shortened(z, task, eps, "threshold" in faults)
        image = x + z if "box" in faults else (x + z).clamp(0, 1)
        z = image - x
        image = image.detach().requires_grad_()
        logits = model(image)
        wrong = logits.argmax(1) != y
        new = (wrong & ~reached).view(-1, 1, 1, 1) | (k == task.steps) & ~reached.view(-1, 1, 1, 1)
        kept = torch.where(new | ("forgets" in faults), image.detach(), kept)
        reached = wrong if "forgets" in faults else reached | wrong
        loss = nn.functional.cross_entropy(logits, y, reduction="sum")
        if "gradients" in faults:
            torch.autograd.backward(loss)
            g = torch.zeros_like(image) if image.grad is None else image.grad
        else:
            (g,) = torch.autograd.grad(loss, image, create_graph="memory" in faults)
        if "memory" in faults:
            LEAK.append(logits)
        length = 1.0 if "forgets" in faults else 0.4 * (1 - k / (task.steps + 1))
        z = z + step(g.detach(), image.detach(), task, length * eps, "gap" in faults)
    with torch.no_grad():
        clean = model(x).argmax(1) != y
        reached = model(kept).argmax(1) != y
    success = reached if "clean errors" in faults else reached & ~clean
    if "flag" in faults:
        success = success | ~clean
    if "numbers" in faults:
        kept[0] = torch.nan
    if "inputs" in faults:
        x.mul_(0.5)
    return kept.requires_grad_("graph" in faults), success


exceeding = attack("ball")
"""The same as ``attack("ball")``, with a name by which a command can find it."""


def closed_form(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
    """The best point of the ball and the box for the slope at the image: one gradient."""
    image, modes = x.detach().clone().requires_grad_(), [(m, m.training) for m in model.modules()]
    model.eval()
    loss = nn.functional.cross_entropy(model(image), y, reduction="sum")
    (g,) = torch.autograd.grad(loss, image)
    for module, mode in modes:
        module.training = mode
    eps, g = task.eps * (1 - 1e-6), g.double()
    room = torch.where(g > 0, 1 - x, x).double().flatten(1)
    size = g.abs().flatten(1)
    if task.norm == "linf":
        far = room.clamp(max=eps)
    elif task.norm == "l1":
        order = size.argsort(1, descending=True)
        there = room.gather(1, order)
        left = (eps - (there.cumsum(1) - there)).clamp(min=0)
        far = torch.zeros_like(room).scatter(1, order, torch.minimum(there, left))
    else:
        low, high = torch.zeros(len(x), 1).double(), 1e6 * torch.ones(len(x), 1).double()
        for _ in range(200):
            middle = (low + high) / 2
            long = torch.minimum(middle * size, room).norm(dim=1, keepdim=True) > eps
            low, high = torch.where(long, low, middle), torch.where(long, middle, high)
        far = torch.minimum(low * size, room)
    return (x + (far.view(x.shape) * g.sign()).to(x.dtype)).clamp(0, 1)
