"""The l_inf, l_2 and l_1 balls around an image, each cut by the pixel box."""

import re
from abc import abstractmethod
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Self

import torch
from torch import Tensor

from mpkit.core.checks import Radius, require_radius
from mpkit.sets import norms, projections, support
from mpkit.sets.base import NUMBER, PerturbationSet, in_words, unreadable


@dataclass(frozen=True)
class Ball(PerturbationSet):
    """All z (B, C, H, W) with ‖z‖ ≤ eps, over channels and pixels, and x + z in [0, 1].

    ``order`` is the p of the norm: attacks that move in another way for each p look at it. A ball
    of another kind names the one that it is most like.

    Raises: ValueError: if eps is not positive and finite.
    """

    order: ClassVar[float] = 2
    eps: Radius

    def __post_init__(self) -> None:
        if not isinstance(self.eps, Tensor):
            require_radius(type(self).__name__, self.eps)

    @abstractmethod
    def norm(self, z: Tensor) -> Tensor:
        """The norm in which the ball is round: (B, C, H, W) to (B,)."""

    @abstractmethod
    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Draw one z for each image: (B, C, H, W)."""

    @abstractmethod
    def dual_norm(self, g: Tensor) -> Tensor:
        """The greatest ⟨g, z⟩ over ‖z‖ ≤ 1: (B, C, H, W) to (B,)."""

    @abstractmethod
    def direction(self, g: Tensor) -> Tensor:
        """A z with ‖z‖ ≤ 1 where ⟨g, z⟩ is greatest; zero where g is zero."""

    @abstractmethod
    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """The nearest allowed point to z in the Euclidean sense: (B, C, H, W).

        Rows already inside come back bit for bit; projecting twice changes nothing.

        Raises: ValueError: if z holds NaN or infinity.
        """

    def steepest(self, g: Tensor) -> Tensor:
        """A z with ‖z‖ ≤ eps (the box not counted) where ⟨g, z⟩ is greatest: (B, C, H, W)."""
        return norms.per_row(self.eps, g) * self.direction(g)

    def gauge(self, x: Tensor, z: Tensor) -> Tensor:
        """‖z‖ / eps, in float64 and without the box: (B,)."""
        norm = self.norm(z.double())
        return norm / norms.per_row(self.eps, norm)

    def least(self, x: Tensor, g: Tensor, need: Tensor) -> Tensor:
        """The smallest z in the box with ⟨g, z⟩ ≥ need: what breaks a linear function.

        Where the box does not reach as far, the z in it that goes furthest.

        Args:
            x: (B, C, H, W) in [0, 1].
            g: (B, C, H, W), the gradient.
            need: (B,), what the function lacks.

        Source: the projection on box and hyperplane of Croce and Hein 2020 (FAB), from the image.
        """
        x, g = x.double(), g.double()
        d = self.direction(g)
        size, room = norms.size_and_room(d, x)
        end = torch.where(size > 0, room / norms.positive(size), 0).amax(1, keepdim=True)

        def at(length: Tensor) -> Tensor:
            far = torch.minimum(size * length, room)
            return far.view_as(d) * d.sign()

        def short(length: Tensor) -> Tensor:
            return (g * at(length)).flatten(1).sum(1, keepdim=True) < need.view(-1, 1)

        return at(norms.bisected(torch.zeros_like(end), end, short, 60)[1])

    def support(self, x: Tensor, g: Tensor) -> Tensor:
        """The greatest ⟨g, z⟩ over ball ∩ box, or no less than it, for several g at each image.

        Args:
            x: (B, C, H, W) in [0, 1].
            g: (B, S, C, H, W).

        Returns: (B, S), with gradients in g. A ball of a new kind forgets the box.
        """
        size = self.dual_norm(g.flatten(0, 1)).view(g.shape[:2])
        return norms.per_row(self.eps, size) * size

    def describe(self) -> str:
        """Such as linf:0.3; a long number that is a whole number of grey levels as n/255."""
        if not self.form:
            return super().describe()
        plain = in_words(self.eps)
        if not isinstance(self.eps, Tensor) and len(plain) > 8:
            levels = round(self.eps * 255)
            plain = f"{levels}/255" if self.eps == levels / 255 else plain
        return f"{self.word()}:{plain}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read such as linf:0.3 or linf:8/255."""
        match = re.fullmatch(rf"\w+\s*:\s*({NUMBER})(?:\s*/\s*({NUMBER}))?", text)
        if not match or not float(match[2] or 1):
            raise unreadable(text, "has no radius")
        return cls(float(match[1]) / float(match[2] or 1))

    def everything(self, x: Tensor) -> Self:
        """The ball of the same kind that holds every image of the shape of x (B, C, H, W)."""
        return replace(self, eps=float(self.norm(torch.ones_like(x[:1], dtype=torch.float64))))

    def stride(self, image: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """A steepest step of an image along the gradient g there, (B, C, H, W) as both are.

        Its norm is at most ``length``, a number's tensor or (B, 1, 1, 1); a sparse step minds the
        box.
        """
        return self.direction(g).mul_(length)

    def apply(self, x: Tensor, z: Tensor) -> Tensor:
        """The image x + z: (B, C, H, W)."""
        return x + z

    def contains(self, x: Tensor, z: Tensor) -> Tensor:
        """Whether z fits the ball and x + z lies in [0, 1]: (B,) bool."""
        boxed = ((z >= -x) & (z <= 1 - x)).flatten(1).all(1)
        return boxed & self.fits(x, z)

    def fits(self, x: Tensor, z: Tensor) -> Tensor:
        """Whether ‖z‖ ≤ eps (1 + 32 machine epsilons), the box not counted: (B,) bool."""
        norm = self.norm(z)
        return norm <= norms.per_row(self.eps, norm) * (1 + norms.slack(x.dtype))

    @abstractmethod
    def shrink(self, z: Tensor) -> Tensor:
        """The nearest point to z with ‖z‖ ≤ eps, the box not counted: (B, C, H, W)."""

    def zero(self, x: Tensor) -> Tensor:
        """Zeros of the shape of x."""
        return torch.zeros_like(x)

    def scaled(self, w: Radius) -> Self:
        """The ball of radius w eps, w a number > 0 or (B,) numbers ≥ 0."""
        return replace(self, eps=self.eps * w)

    def check(self, x: Tensor) -> None:
        """Refuse a radius that is not finite, or not one for each image."""
        require_radius(type(self).__name__, self.eps, len(x))


@dataclass(frozen=True)
class Linf(Ball, form="linf:R"):
    """All z with abs(z) ≤ eps in every entry and x + z in [0, 1]; eps in pixels, such as 0.3."""

    order = inf

    def norm(self, z: Tensor) -> Tensor:
        """Largest absolute entry: (B, C, H, W) to (B,)."""
        return norms.linf_norm(z)

    def dual_norm(self, g: Tensor) -> Tensor:
        """Sum of absolute entries: (B, C, H, W) to (B,)."""
        return norms.l1_norm(g)

    def direction(self, g: Tensor) -> Tensor:
        """The sign of every entry."""
        return g.sign()

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """Clip each entry to the ball and to the box, which is exact: (B, C, H, W)."""
        return projections.nearest_in_linf_ball_and_box(z, self.eps, x)

    def shrink(self, z: Tensor) -> Tensor:
        """The nearest point with norm at most eps, the box not counted: (B, C, H, W)."""
        return projections.nearest_in_linf_ball(z, self.eps)

    def support(self, x: Tensor, g: Tensor) -> Tensor:
        """The greatest ⟨g, z⟩ over ball ∩ box for S gradients each: (B, S, C, H, W) to (B, S)."""
        g = g.flatten(2)
        return support.over_linf_ball_and_box(g, norms.per_row(self.eps, g), x.flatten(1))

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Draw z uniformly from ball ∩ box: (B, C, H, W)."""
        eps = norms.per_row(self.eps, x)
        low, high = torch.maximum(-eps, -x), torch.minimum(eps, 1 - x)
        share = torch.rand(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        return self.project(x, low + share * (high - low))


@dataclass(frozen=True)
class L2(Ball, form="l2:R"):
    """All z with Euclidean norm ≤ eps and x + z in [0, 1]; eps in pixel units, such as 2."""

    def norm(self, z: Tensor) -> Tensor:
        """Euclidean norm: (B, C, H, W) to (B,)."""
        return norms.l2_norm(z)

    def dual_norm(self, g: Tensor) -> Tensor:
        """Euclidean norm: (B, C, H, W) to (B,)."""
        return norms.l2_norm(g)

    def direction(self, g: Tensor) -> Tensor:
        """The gradient over its norm."""
        return norms.unit_direction(g)

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """The nearest point of ball ∩ box: (B, C, H, W)."""
        return projections.nearest_in_l2_ball_and_box(z, self.eps, x)

    def shrink(self, z: Tensor) -> Tensor:
        """The nearest point with norm at most eps, the box not counted: (B, C, H, W)."""
        return projections.nearest_in_l2_ball(z, self.eps)

    def support(self, x: Tensor, g: Tensor) -> Tensor:
        """The greatest ⟨g, z⟩ over ball ∩ box for S gradients each: (B, S, C, H, W) to (B, S)."""
        g = g.flatten(2)
        return support.over_l2_ball_and_box(g, norms.per_row(self.eps, g), x.flatten(1))

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Draw z uniformly from the ball, then take the nearest point of ball ∩ box."""
        normal = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        share = torch.rand(len(x), generator=rng, dtype=x.dtype, device=x.device)
        length = norms.per_row(share ** (1 / x[0].numel()), x)
        return self.project(x, self.steepest(normal) * length)


@dataclass(frozen=True)
class L1(Ball, form="l1:R"):
    """All z with sum of absolute entries ≤ eps and x + z in [0, 1]; eps in pixels, such as 10."""

    order = 1

    def norm(self, z: Tensor) -> Tensor:
        """Sum of absolute entries: (B, C, H, W) to (B,)."""
        return norms.l1_norm(z)

    def dual_norm(self, g: Tensor) -> Tensor:
        """Largest absolute entry: (B, C, H, W) to (B,)."""
        return norms.linf_norm(g)

    def direction(self, g: Tensor) -> Tensor:
        """One entry ±1, at the first where abs(g) is greatest."""
        flat = g.flatten(1)
        where = flat.abs().argmax(1, keepdim=True)
        direction = torch.zeros_like(flat).scatter_(1, where, flat.gather(1, where).sign())
        return direction.view_as(g)

    def stride(self, image: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """The steepest step within the box: the best entry to its wall, then the next best."""
        return norms.filling_step(image, g, length)

    def least(self, x: Tensor, g: Tensor, need: Tensor) -> Tensor:
        """The smallest z in the box with ⟨g, z⟩ ≥ need: entry by entry to the wall, steep first."""
        x, g = x.double(), g.double()
        size, room = norms.size_and_room(g, x)
        order = size.argsort(dim=1, descending=True, stable=True)
        gain = (size * room).gather(1, order)
        before = gain.cumsum(1) - gain
        share = ((need.view(-1, 1) - before) / norms.positive(gain)).clamp(0, 1)
        moved = torch.zeros_like(size).scatter_(1, order, share * room.gather(1, order))
        return moved.view_as(g) * g.sign()

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """The nearest point of ball ∩ box: (B, C, H, W)."""
        return projections.nearest_in_l1_ball_and_box(z, self.eps, x)

    def shrink(self, z: Tensor) -> Tensor:
        """The nearest point with norm at most eps, the box not counted: (B, C, H, W)."""
        return projections.nearest_in_l1_ball(z, self.eps)

    def support(self, x: Tensor, g: Tensor) -> Tensor:
        """The greatest ⟨g, z⟩ over ball ∩ box for S gradients each: (B, S, C, H, W) to (B, S)."""
        g = g.flatten(2)
        return support.over_l1_ball_and_box(g, norms.per_row(self.eps, g), x.flatten(1))

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Draw z uniformly from the ball, then take the nearest point of ball ∩ box."""
        mass = torch.empty_like(x).exponential_(generator=rng)
        spare = x.new_empty(len(x)).exponential_(generator=rng)
        sign = torch.randint(0, 2, x.shape, generator=rng, device=x.device) * 2 - 1
        share = self.eps / (norms.l1_norm(mass) + spare)
        return self.project(x, mass * sign * norms.per_row(share, x))
