"""Attacks along another gradient than the model's own, and a network that imitates it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpkit.attacks import PGD, AttackResult, Falling, Loss, Margin
from mpkit.attacks.base import Best, Problem
from mpkit.attacks.gradients import Guarded, Model, climb, evaluating, guard, look
from mpkit.attacks.pgd import StepSchedule, Walk
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.models import small_cnn


@dataclass(frozen=True)
class Directed(PGD):
    """Projected ascent whose direction is an estimate; each point is scored by the model itself.

    Settings are those of PGD.

    Raises: ValueError: if steps or step is not positive.
    """

    loss: Loss = field(default_factory=Margin)
    schedule: StepSchedule = field(default_factory=lambda: Falling(0.05))

    @abstractmethod
    def uphill(self, problem: Problem, image: Tensor, k: int) -> Tensor:
        """A direction in which the loss should grow, (B, C, H, W)."""

    def advance(self, problem: Problem, state: Walk, k: int) -> Walk:
        """Look at the current point, step along the estimate, project."""
        image = self.set.apply(problem.x, state.z)
        here = Best.at(problem, self.loss, state.z, image)
        (factor,) = problem.pace or self.pace(k)
        length = self.length(image) * factor
        z = state.z + self.stride(image, self.uphill(problem, image, k), length)
        return Walk(self.set.project(problem.x, z), state.best.or_better(here))


@dataclass(frozen=True)
class TransferPGD(Directed):
    """Ascent along the gradient of another network: a surrogate, or the model with a detour.

    Settings are those of PGD, and a guide.

    Args:
        guide: the network whose gradient is followed; in eval mode, on the device of the images.

    Raises: ValueError: if there is no guide, or a number is not positive.
    """

    guide: Model | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guide is None:
            raise ValueError(
                "TransferPGD: needs the network whose gradient it follows; give guide=..."
            )

    def find(self, problem: Problem) -> AttackResult:
        """Guard the guide once: to do it reads the labels, for which a GPU is waited for."""
        if self.guide is None or isinstance(self.guide, Guarded):
            return super().find(problem)
        guarded = guard(self.guide, self.loss.classes, problem.y)
        return replace(self, guide=guarded).find(problem)

    def uphill(self, problem: Problem, image: Tensor, k: int) -> Tensor:
        """The guide's own gradient."""
        assert self.guide is not None
        return climb(self.guide, self.loss, image, problem.y).gradient


@dataclass(frozen=True)
class NES(Directed):
    """Ascent along finite differences averaged over Gaussian directions; needs no gradient.

    The estimate is the gradient of the loss smoothed over a neighbourhood, so that it sees slopes
    across flat steps and through wiggles. The width of the neighbourhood goes round through
    several scales, since the size of the steps is not known.

    Settings are those of PGD, where a step is an estimate, and two more.

    Args:
        directions: Gaussian directions of an estimate, each looked at from both sides, > 0.
        scales: standard deviations in pixel units, taken in turn.

    Raises: ValueError: if a number is not positive.

    Source: Ilyas et al. 2018 (natural evolution strategies), with widths of our own choice.
    """

    directions: int = 32
    scales: tuple[float, ...] = (0.03, 0.1, 0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("NES", directions=self.directions)

    def kind(self, k: int) -> Hashable:
        """Which of the scales is in turn."""
        return k % len(self.scales)

    def uphill(self, problem: Problem, image: Tensor, k: int) -> Tensor:
        """The averaged finite difference."""
        scale = self.scales[k % len(self.scales)]
        total = torch.zeros_like(image)
        pairs = max(1, min(self.directions, 2048 // len(image)))
        for done in range(0, self.directions, pairs):
            n = min(pairs, self.directions - done)
            shape = (n, *image.shape)
            way = torch.randn(shape, generator=problem.rng, dtype=image.dtype, device=image.device)
            total += (way * self._rise(problem, image, scale * way)).sum(0)
        return total

    def _rise(self, problem: Problem, image: Tensor, step: Tensor) -> Tensor:
        """Loss after each step (n, B, C, H, W) minus that after its opposite: (n, B, 1, 1, 1)."""
        n = len(step)
        rows = torch.arange(len(image), device=image.device).repeat(2 * n)
        asked = torch.cat([image + step, image - step]).clamp(0, 1).flatten(0, 1)
        loss = trees.take(self.loss, rows)
        score = look(problem.model, loss, asked, problem.y[rows])[1].view(2, n, -1)
        rise: Tensor = score[0] - score[1]
        return rise.view(n, -1, 1, 1, 1)


MIXES = 16
"""Altered copies of each image that the model is asked about."""


class Lesson:
    """What a surrogate learns from: images and the model's answers, softened.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W), the images to stay close to.
        rng: draws the altered copies.
    """

    def __init__(self, model: Model, x: Tensor, rng: torch.Generator) -> None:
        self.model, self.rng, self.softness = model, rng, 1.0
        answers = self.ask(x)
        top = answers.topk(2, dim=1).values
        self.softness = max(float((top[:, 0] - top[:, 1]).median()) / 4, 1e-6)
        images = torch.cat([x, *(self._altered(x) for _ in range(MIXES))])
        self.images, self.answers = images, self.ask(images)

    @torch.no_grad()
    def ask(self, images: Tensor) -> Tensor:
        """The model's logits over their usual lead: (N, K) in a range that softmax resolves."""
        with evaluating(self.model):
            groups = torch.tensor_split(images, -(-len(images) // 512))
            parts = [torch.nan_to_num(self.model(group)) for group in groups]
        return (torch.cat(parts).to(images.dtype) / self.softness).clamp(-20, 20)

    def add(self, images: Tensor) -> None:
        """Ask about more images (N, C, H, W) and learn from them too."""
        self.images = torch.cat([self.images, images])
        self.answers = torch.cat([self.answers, self.ask(images)])

    def teach(self, net: nn.Module, epochs: int) -> None:
        """Train a network on the model's answers."""
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, fused=True)
        net.train()
        with torch.enable_grad():
            for _ in range(epochs):
                order = torch.randperm(len(self.images), generator=self.rng, device=self.rng.device)
                for rows in torch.split(order, 128):
                    said = functional.log_softmax(net(self.images[rows]), 1)
                    wanted = functional.softmax(self.answers[rows], 1)
                    optimizer.zero_grad()
                    (-(wanted * said).sum(1).mean()).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        net.eval()

    def _altered(self, x: Tensor) -> Tensor:
        """Each image part of the way towards another one, and noise of a random size on top."""
        order = torch.randperm(len(x), generator=self.rng, device=self.rng.device)
        share, size = (self._random(x[:, :1, :1, :1]) for _ in "ab")
        noise = torch.randn(x.shape, generator=self.rng, dtype=x.dtype, device=x.device)
        return (x + 0.6 * share * (x[order] - x) + 0.3 * size * noise).clamp(0, 1)

    def _random(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self.rng, dtype=like.dtype, device=like.device)


def imitate(model: Model, x: Tensor, rng: torch.Generator) -> tuple[nn.Module, Lesson] | None:
    """Train a small network on a model's answers around some images.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W); images with sides of less than 4 pixels give None.
        rng: draws weights and altered images.

    Returns: the network, and the lesson to go on with.

    Source: Papernot et al. 2017 (substitute models); answers softened, images mixed, our choice.
    """
    if min(x.shape[2:]) < 4:
        return None
    lesson = Lesson(model, x, rng)
    seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
    weights = torch.Generator().manual_seed(seed)
    channels, height, width = x.shape[1:]
    net = small_cnn((channels, height, width), lesson.answers.shape[1], weights).to(x)
    lesson.teach(net, 12)
    return net, lesson
