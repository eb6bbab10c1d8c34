"""The binarization test: a class that is surely at the edge of the ball, and an attack to find it.

Written anew from its paper, to be set beside the doctor; ``others`` has two more such tests.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.masks.asking import tried
from mpkit.attacks import APGD, PGD, Falling
from mpkit.attacks.gradients import Model, attacking
from mpkit.masking import Planted, Sanitized
from mpkit.sets import Ball
from mpkit.sets.norms import per_row


class Binarized(NamedTuple):
    """What the binarization test found; rates are NaN where no image could be tested.

    Attributes:
        rate: share of images where the attack under test finds the other class.
        random_rate: the same for random points of the ball.
        flagged: whether the rate is below the threshold.
        tested: images whose points a linear discriminator tells apart.
        left_out: images where none does.
        layer: whether features are the input of the last layer, or else the model's outputs.
    """

    rate: float
    random_rate: float
    flagged: bool
    tested: int
    left_out: int
    layer: bool


class Features(nn.Module):
    """What the last linear layer is given, if its output is the model's; else the outputs.

    Only layers of a model that is an nn.Module are found.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W), by which the layer is looked for.
    """

    def __init__(self, model: Model, x: Tensor) -> None:
        super().__init__()
        self.model = model
        layers = (
            [m for m in model.modules() if isinstance(m, nn.Linear)]
            if isinstance(model, nn.Module)
            else []
        )
        with torch.no_grad():
            out, seen = self._watched(layers, x.clone())
        same = [layer for layer, (_, made) in seen.items() if torch.equal(made, out)][-1:]
        shapes = {(layer.in_features, layer.out_features) for layer in same}
        self.last = [m for m in layers if (m.in_features, m.out_features) in shapes]
        self.width = same[0].in_features if same else out.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, D); zeros where this time no such layer was asked."""
        out, seen = self._watched(self.last, x)
        if not self.last:
            return out
        given = [features for features, _ in seen.values() if len(features) == len(x)]
        return given[-1] if given else x.new_zeros(len(x), self.width)

    def _watched(
        self, layers: list[nn.Linear], x: Tensor
    ) -> tuple[Tensor, dict[nn.Linear, tuple[Tensor, Tensor]]]:
        seen: dict[nn.Linear, tuple[Tensor, Tensor]] = {}

        def look(layer: Any, given: tuple[Tensor, ...], made: Tensor) -> None:
            seen.pop(layer, None)  # the last that was called comes last
            seen[layer] = given[0], made

        hooks = [layer.register_forward_hook(look) for layer in layers]
        try:
            return self.model(x), seen
        finally:
            for hook in hooks:
                hook.remove()


def binarization(
    model: Model,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    rng: torch.Generator,
    inner: int = 100,
    boundary: int = 1,
    steps: int = 100,
    tries: int = 200,
    closeness: float = 0.999,
    threshold: float = 0.95,
) -> Binarized:
    """Does the attack find a class that a new last layer surely puts at the edge of the ball?

    For each image the clean one and random points within 95 % of the radius are one class, random
    points at the edge the other, and a linear discriminator of the features tells them apart, its
    border so close to the edge's points as ``closeness`` says. The attack under test is Auto-PGD
    and PGD with falling steps, as in the doctor's control; of two classes margin and cross-entropy
    rise together, so the margin is climbed alone. What differs from the authors' code: 100 points
    inside in place of 999; a support vector machine of ridge systems, all images at once, in place
    of logistic regression; features of each point are computed among those of the other images;
    a discriminator that fails leaves the image out; the random attack draws half of its points
    inside of the ball and half at the edge; there is an l_1 ball. Features are the input of the
    last nn.Linear where its output is the model's, otherwise the outputs themselves.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W) in [0, 1].
        y: (B,) int64 labels, which are not looked at.
        ball: where to attack.
        rng: draws points and starts.
        inner: random points inside.
        boundary: points at the edge; all of them are of the other class.
        steps: gradients of each attack.
        tries: points that the random attack draws.
        closeness: in [0, 1); 0 puts the border half way, 1 through the edge's nearest point.
        threshold: rates below it are flagged; the authors' code reports the rate alone.

    Source: Zimmermann et al. 2022.
    """
    nothing = Binarized(math.nan, math.nan, False, 0, len(x), False)

    def test() -> Binarized:
        with attacking(model), torch.no_grad():
            read = Features(model, x)
            safe = Sanitized(read)
            near = ball.scaled(0.95)
            points = [ball.zero(x), *(near.sample(x, rng) for _ in range(inner))]
            points += [_edge(ball, x, rng) for _ in range(boundary)]
            features = torch.stack([safe(x + z) for z in points], 1)
            loss, apart = discriminator(features, boundary, closeness)
            hit = torch.zeros_like(apart)
            for k in range(tries):
                z = _edge(ball, x, rng) if k % 2 else ball.sample(x, rng)
                hit |= loss.reached(safe(x + z), y)
        reached = torch.zeros_like(apart)
        attacks = APGD(ball, steps, loss), PGD(ball, steps, loss=loss, schedule=Falling(0.05))
        for attack in attacks:
            image = attack(safe, x, torch.zeros_like(y), rng).image
            with attacking(model), torch.no_grad():
                reached |= loss.reached(safe(image), y)
        tested, layer = int(apart.sum()), bool(read.last)
        if not tested:
            return nothing._replace(layer=layer)
        rate, chance = (float(found[apart].double().mean()) for found in (reached, hit))
        return Binarized(rate, chance, rate < threshold, tested, len(x) - tested, layer)

    return tried(test, nothing)


def _edge(ball: Ball, x: Tensor, rng: torch.Generator) -> Tensor:
    """A random point at the edge of the ball, in l_inf a corner, or at the walls of the box."""
    z = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
    z = z.sign() if ball.order == math.inf else z
    for _ in range(4):  # what the walls cut off goes to other pixels
        z = ball.project(x, z * per_row(ball.eps / ball.norm(z).clamp(min=1e-12), x))
    return z


def discriminator(
    features: Tensor, boundary: int, closeness: float, rounds: int = 30
) -> tuple[Planted, Tensor]:
    """Tell the last points of each image from the others by a linear function of their features.

    A support vector machine with next to no slack: ridge regression on the points that do not
    have their distance yet, again and again.

    Args:
        features: (B, P, D), the last ``boundary`` of the P points being those of the other class.
        closeness: 0 puts the border half way between the classes, 1 through the second.

    Returns: the loss that is positive for the other class, and (B,) bool where all points come
    out right.

    Source: Chapelle 2007, the finite Newton method.
    """
    f = features.double()
    middle = f.mean(1, keepdim=True)
    size = (f - middle).norm(dim=2).amax(1).clamp(min=1e-30).view(-1, 1, 1)
    f = (f - middle) / size
    goal = torch.full(f.shape[:2], -1.0, dtype=f.dtype, device=f.device)
    goal[:, -boundary:] = 1
    gram, ridge = f @ f.mT + 1, 1e-7 * torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
    on = torch.ones_like(goal)
    for _ in range(rounds):
        system = on.unsqueeze(2) * gram * on.unsqueeze(1) + ridge
        share = on * torch.linalg.solve(system, on * goal)
        on = (goal * (gram @ share.unsqueeze(2)).squeeze(2) < 1).to(f)
    way = (share.unsqueeze(1) @ f).squeeze(1)
    score = (f @ way.unsqueeze(2)).squeeze(2)
    low, high = score[:, :-boundary].amax(1), score[:, -boundary:].amin(1)
    gap = (high - low).clamp(min=1e-12)
    way = way / (gap.unsqueeze(1) * size.squeeze(2))
    level = (low + (1 + closeness) / 2 * gap) / gap + (way * middle.squeeze(1)).sum(1)
    loss = Planted(way.to(features), level.to(features))
    right = torch.stack([loss(point, point) > 0 for point in features.unbind(1)], 1) == (goal > 0)
    return loss, right.all(1) & (high > low)
