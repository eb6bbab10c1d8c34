"""Sets made of other sets: a union, and what lies between two sets."""

import re
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mpkit.core import trees
from mpkit.core.checks import Radius
from mpkit.sets import norms
from mpkit.sets.balls import Ball
from mpkit.sets.base import PerturbationSet, read, unreadable
from mpkit.sets.norms import boxed
from mpkit.sets.spatial import RotationTranslation


@dataclass(frozen=True, init=False)
class Union(PerturbationSet):
    """Whatever any one of the sets allows; per example the worst set counts.

    The coordinate z is ``(which, parts)``: the number (B,) of the set that is used, and one
    coordinate for each set, of which only the used one matters.

    Raises: ValueError: if there is no set.
    """

    sets: tuple[PerturbationSet, ...]

    def __init__(self, *sets: PerturbationSet) -> None:
        if not sets:
            raise ValueError("Union: needs at least one set, got none; write Union(Linf(0.3), ...)")
        object.__setattr__(self, "sets", sets)

    def __repr__(self) -> str:
        return f"Union({', '.join(map(repr, self.sets))})"

    def describe(self) -> str:
        """The words of its parts, joined by +."""
        return " + ".join(one.describe() for one in self.parts())

    def parts(self) -> tuple[PerturbationSet, ...]:
        """The sets, those of nested unions too."""
        return tuple(part for one in self.sets for part in one.parts())

    def apply(self, x: Tensor, z: Any) -> Tensor:
        """Perturb each image in the way of its own set: (B, C, H, W)."""
        which, parts = z
        image = x
        for i, (one, part) in enumerate(zip(self.sets, parts, strict=True)):
            image = trees.where(which == i, one.apply(x, part), image)
        return image

    def contains(self, x: Tensor, z: Any) -> Tensor:
        """Whether the set that is used allows its coordinate: (B,) bool."""
        which, parts = z
        allowed = torch.zeros_like(which, dtype=torch.bool)
        for i, (one, part) in enumerate(zip(self.sets, parts, strict=True)):
            allowed = allowed | ((which == i) & one.contains(x, part))
        return allowed

    def sample(self, x: Tensor, rng: torch.Generator) -> Any:
        """Draw one of the sets, each with the same chance, and a point of it by its own law."""
        which = torch.randint(len(self.sets), (len(x),), generator=rng, device=x.device)
        return which, tuple(one.sample(x, rng) for one in self.sets)

    def zero(self, x: Tensor) -> Any:
        """The first set, with nothing done."""
        which = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return which, tuple(one.zero(x) for one in self.sets)

    def scaled(self, w: Radius) -> Self:
        """Every set with its budgets times w, a number > 0 or (B,) numbers ≥ 0."""
        return type(self)(*(one.scaled(w) for one in self.sets))

    def check(self, x: Tensor) -> None:
        """Refuse budgets that do not fit the images in any of the sets."""
        for one in self.sets:
            one.check(x)


@dataclass(frozen=True)
class Between(PerturbationSet):
    """What two sets allow together when a share w of one budget and 1 - w of the other is used.

    The coordinate z is ``(w, z_a, z_b)`` with w (B,) in [0, 1], free for each example.
    """

    a: PerturbationSet
    b: PerturbationSet

    def describe(self) -> str:
        """Such as affine(l1:10 & linf:0.3), with the name of the class."""
        return f"{type(self).__name__.lower()}({self.a.describe()} & {self.b.describe()})"

    def scaled(self, w: Radius) -> Self:
        """Both sets with their budgets times w, a number > 0 or (B,) numbers ≥ 0."""
        return replace(self, a=self.a.scaled(w), b=self.b.scaled(w))

    def zero(self, x: Tensor) -> Any:
        """Half of each budget, none of it used."""
        return x.new_full((len(x),), 0.5), self.a.zero(x), self.b.zero(x)

    def check(self, x: Tensor) -> None:
        """Refuse budgets that do not fit the images in either set."""
        self.a.check(x)
        self.b.check(x)


@dataclass(frozen=True)
class Affine(Between, form="affine(ONE & OTHER)"):
    """A perturbation that spends w of one budget and 1 - w of another, the sum in the pixel box.

    For two balls: x + z_a + z_b in [0, 1] with ‖z_a‖ ≤ w eps_a and ‖z_b‖ ≤ (1 - w) eps_b; without
    the box this is the convex hull of the two balls. For a spatial set and a ball: the image is
    rotated and shifted within w of the bounds, then z_b with ‖z_b‖ ≤ (1 - w) eps_b is added and
    the result lies in [0, 1]. Only the image as a whole must lie in the box; see Blend for the
    reading in which each part must be allowed by itself.

    Raises: ValueError: if b is not a ball, or a is neither a ball nor a RotationTranslation.

    Source: Tramèr and Boneh 2019, section 4.
    """

    a: Ball | RotationTranslation
    b: Ball

    def __post_init__(self) -> None:
        if not isinstance(self.b, Ball) or not isinstance(self.a, Ball | RotationTranslation):
            raise ValueError(
                "Affine: a must be a ball or a RotationTranslation and b a ball, got "
                f"{type(self.a).__name__} and {type(self.b).__name__}; put the ball second"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read such as affine(rt:3px,30deg & linf:0.1)."""
        match = re.fullmatch(r"\w+\s*\((.*)&(.*)\)", text)
        if not match:
            raise unreadable(text)
        return cls(*map(read, match.groups()))  # type: ignore[arg-type]

    def apply(self, x: Tensor, z: Any) -> Tensor:
        """The first perturbation, then the second on top of it: (B, C, H, W)."""
        _, z_a, z_b = z
        return boxed(self.a.apply(x, z_a) + z_b)

    def contains(self, x: Tensor, z: Any) -> Tensor:
        """Whether both parts keep their shares and the image lies in [0, 1]: (B,) bool."""
        w: Tensor
        w, z_a, z_b = z
        image: Tensor = self.a.apply(x, z_a) + z_b
        within = norms.slack(x.dtype)
        boxed = ((image >= -within) & (image <= 1 + within)).flatten(1).all(1)
        shares = self.a.scaled(w).fits(x, z_a) & self.b.scaled(1 - w).fits(x, z_b)
        return boxed & shares & (w >= 0) & (w <= 1)

    def sample(self, x: Tensor, rng: torch.Generator) -> Any:
        """Draw w uniformly from [0, 1], then each part from its scaled set by its own law."""
        w = torch.rand(len(x), generator=rng, dtype=x.dtype, device=x.device)
        z_a = self.a.scaled(w).sample(x, rng)
        z_b = self.b.scaled(1 - w).sample(self.a.apply(x, z_a), rng)
        return w, z_a, z_b


@dataclass(frozen=True)
class Blend(Between):
    """The weighted mean of two perturbed images, each of which is allowed by itself.

    This is { w r_1 + (1 - w) r_2 } read literally: both perturbations keep their whole set, box
    included, and the image is w a.apply(x, z_a) + (1 - w) b.apply(x, z_b). A linear model's loss
    is then linear in w, and the worst w is 0 or 1.

    Source: Tramèr and Boneh 2019, section 4, definition of an affine combination.
    """

    def apply(self, x: Tensor, z: Any) -> Tensor:
        """The weighted mean of the two perturbed images: (B, C, H, W)."""
        w, z_a, z_b = z
        mean = torch.lerp(self.b.apply(x, z_b), self.a.apply(x, z_a), norms.per_row(w, x))
        return boxed(mean)

    def contains(self, x: Tensor, z: Any) -> Tensor:
        """Whether both parts are allowed by their own sets: (B,) bool."""
        w: Tensor
        w, z_a, z_b = z
        return self.a.contains(x, z_a) & self.b.contains(x, z_b) & (w >= 0) & (w <= 1)

    def sample(self, x: Tensor, rng: torch.Generator) -> Any:
        """Draw w uniformly from [0, 1], and each part from its set by its own law."""
        w = torch.rand(len(x), generator=rng, dtype=x.dtype, device=x.device)
        return w, self.a.sample(x, rng), self.b.sample(x, rng)
