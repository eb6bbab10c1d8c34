"""What is measured and not judged exactly: gap to known optima, strength at equal price, time."""

from __future__ import annotations

import time
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mpkit import attacks, data, sets
from mpkit.audit.checks import told_briefly
from mpkit.audit.conformance import brought_back, ours
from mpkit.audit.findings import Finding, Sign
from mpkit.audit.known_optima import reach
from mpkit.audit.protocol import MalformedAttack, Subject, Task
from mpkit.models import QueryCounter
from mpkit.sets import L1, Ball
from mpkit.studies import zoo

NETWORK = "max"
"""The digits network on which strength is measured, trained against three balls."""
POINTS = 64
SHAPE = (1, 5, 5)
"""Of the images of linear models."""
REACH = 0.7
"""Share of the best possible gain on linear models below which the gap is told."""
WEAK = 0.5
"""Share of the known broken images below which an attack is called weak."""
FEW = 10
"""Known broken images, and gradients for each image, below which nothing is said of strength."""
SLOW = 10.0
"""Multiple of the time of the passes that is told; the network is so small that calls count."""


class Known(NamedTuple):
    """A network with images that it gets right, and which of them are known to break.

    Attributes:
        model: in evaluation mode, float32.
        x: (N, 1, 8, 8).
        y: (N,).
        broken: (N,) bool, where some attack has a witness in the set.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    broken: Tensor


@cache
def known(norm: str) -> Known:
    """The shipped digits network with its witnesses in a ball, by Auto-PGD and greedy pixels."""
    model = zoo.digits(NETWORK).float().eval()
    images = data.load("digits", "test").first(2 * POINTS)
    x, y = images.x.float(), images.y
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero().squeeze(1)[:POINTS]
    x, y, ball = x[right], y[right], ball_of(norm)
    searches: list[attacks.Attack] = [
        attacks.APGD(ball, 100),
        attacks.APGD(ball, 100, attacks.DLR()),
    ]
    if isinstance(ball, L1):
        searches.append(attacks.GreedyPixels(ball))
    broken = torch.zeros(len(x), dtype=torch.bool)
    for attack in searches:
        broken |= fallen(model, ball, x, y, ours(attack)(model, x, y))
    return Known(model, x, y, broken)


def ball_of(norm: str) -> Ball:
    """The ball in common use on the digits."""
    ball = sets.usual("digits", (1, 8, 8))[norm]
    assert isinstance(ball, Ball)
    return ball


def fallen(model: nn.Module, ball: Ball, x: Tensor, y: Tensor, image: Tensor) -> Tensor:
    """Which images are broken by what an attack returned, brought back to the set: (N,) bool."""
    with torch.no_grad():
        called: Tensor = model(brought_back(ball, x, image)).argmax(1)
    return called != y


def optimum(subject: Subject, norm: str, steps: int) -> tuple[float, list[Finding]]:
    """The share of the best possible gain of linear models that is reached, and what that says."""
    ball = ball_of(norm)
    share = reach(subject.make(ball, steps, 0), ball, SHAPE, problems=2)
    if share >= REACH:
        return share, []
    size = "x".join(map(str, SHAPE))
    where = f"a linear classifier, images {size}, {norm}:{ball.eps:g}, {steps} steps, seeds 0 and 1"
    case = {"shape": list(SHAPE), "norm": norm, "eps": ball.eps, "steps": steps, "problems": 2}
    words = f"crosses thresholds up to {share:.2f} of the best possible gain"
    return share, [Finding(Sign("gap", words, share), where, case)]


def strength(subject: Subject, norm: str, steps: int) -> tuple[dict[str, Any], list[Finding]]:
    """What it breaks of what is known to break, beside Auto-PGD with as many gradients; and time.

    Args:
        subject: the attack.
        norm: of its ball.
        steps: gradients for each image that it is asked to take.

    Returns: numbers by name, and findings.
    """
    there, task = known(norm), Task(ball_of(norm), steps)
    counted = QueryCounter(there.model).eval()
    begun = time.process_time()
    image = subject(counted, there.x.clone(), there.y.clone(), task).image
    spent = time.process_time() - begun
    points, forwards, backwards = len(there.x), counted.forwards, counted.backwards
    broken = fallen(there.model, task.ball, there.x, there.y, image) & there.broken
    gradients = backwards / points
    peer = attacks.APGD(task.ball, max(1, round(gradients)))
    equal = fallen(
        there.model, task.ball, there.x, there.y, ours(peer)(there.model, there.x, there.y)
    )
    ratio = spent / _passes(there, forwards / points, gradients)
    numbers = {
        "network": f"digits-{NETWORK}",
        "images": points,
        "known to break": int(there.broken.sum()),
        "broken": int(broken.sum()),
        "broken at equal gradients": int((equal & there.broken).sum()) if gradients >= 1 else None,
        "gradients per image": round(gradients, 1),
        "forward passes per image": round(forwards / points, 1),
        "seconds": round(spent, 3),
        "time over the passes": round(ratio, 2),
    }
    return numbers, _judged(numbers, norm, task)


def _judged(numbers: dict[str, Any], norm: str, task: Task) -> list[Finding]:
    where = (
        f"{numbers['images']} digits, {numbers['network']}, {norm}:{task.eps:g}, "
        f"{task.steps} steps, seed {task.seed}"
    )
    case = {"data": "digits", "network": numbers["network"], "rows": numbers["images"]}
    case |= {"norm": norm, "eps": task.eps, "steps": task.steps, "seed": task.seed}
    equal, broken = numbers["broken at equal gradients"], numbers["broken"]
    findings = []
    enough = equal is not None and numbers["gradients per image"] >= FEW <= equal
    if enough and broken < WEAK * equal:
        words = (
            f"breaks {broken} of {numbers['known to break']}, Auto-PGD {equal} at equal gradients"
        )
        findings.append(Finding(Sign("weak", words, broken / equal), where, case))
    if numbers["time over the passes"] > SLOW:
        words = f"{numbers['time over the passes']:.0f} times the time of its passes"
        findings.append(Finding(Sign("slow", words, numbers["time over the passes"]), where, case))
    return findings


def _passes(there: Known, forwards: float, gradients: float) -> float:
    """CPU seconds of as many passes of the batch, and nothing else; the least of three rounds."""
    model, x, y = there.model, there.x, there.y

    def one(back: bool) -> float:
        begun = time.process_time()
        for _ in range(5):
            image = x.detach().requires_grad_(back)
            with torch.set_grad_enabled(back):
                loss = nn.functional.cross_entropy(model(image), y, reduction="sum")
            if back:
                torch.autograd.grad(loss, image)
        return (time.process_time() - begun) / 5

    both = min(one(back=True) for _ in range(3))
    ahead = min(one(back=False) for _ in range(3))
    return max(1e-9, gradients * both + max(0.0, forwards - gradients) * ahead)


def measured(subject: Subject, norm: str, steps: int) -> tuple[dict[str, Any], list[Finding]]:
    """Strength, time and gap of an attack; errors are what the exact checks report.

    The gap of a search that takes no gradients is not told: its price is not counted in them.
    """
    numbers: dict[str, Any] = {}
    findings: list[Finding] = []
    try:
        numbers, findings = strength(subject, norm, steps)
        numbers["reach"], said = optimum(subject, norm, steps)
        findings += said if numbers["gradients per image"] >= FEW else []
    except MalformedAttack:
        raise
    except (Exception, SystemExit) as error:  # whatever a library raises
        numbers["error"] = told_briefly(error)
    return numbers, findings
