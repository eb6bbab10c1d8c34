"""Schemes that change from epoch to epoch: growing sets, and attention to the weakest norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from mpkit.attacks import Attack
from mpkit.sets import PerturbationSet
from mpkit.training.schemes import Random, Scheme, check_attacks

Part = TypeVar("Part")


@dataclass(frozen=True)
class Balanced(Scheme):
    """One attack per batch, drawn in proportion to the robust error that it still causes.

    The errors are those of the run's last validation, which must measure attacks of the same
    names; before the first one all are drawn equally often. This is the sampling of E-AT, which
    fine-tunes a network robust to one norm with l_inf and l_1 for a few epochs (Croce and Hein
    2022; they follow the errors on the training batches instead).

    Args:
        attacks: pairs of a name and an attack, at least one.
    """

    attacks: tuple[tuple[str, Attack], ...]

    def __post_init__(self) -> None:
        check_attacks("Balanced", tuple(attack for _, attack in self.attacks))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The cross-entropy at the images of an attack, all drawn equally often."""
        return self._weighted(())(model, x, y, rng)

    def at(self, epoch: int, robust: Mapping[str, float]) -> Scheme:
        """A random choice with the measured errors as weights.

        Raises: ValueError: the validation lacks one of the names.
        """
        if not robust:
            return self._weighted(())
        if missing := [name for name, _ in self.attacks if name not in robust]:
            raise ValueError(
                f"Balanced: the validation does not measure {', '.join(missing)}; give it attacks "
                "of these names"
            )
        errors = tuple(1 - robust[name] for name, _ in self.attacks)
        return self._weighted(errors if sum(errors) > 0 else ())

    def _weighted(self, weights: tuple[float, ...]) -> Random:
        return Random(tuple(attack for _, attack in self.attacks), weights)


@dataclass(frozen=True)
class RadiusWarmup(Scheme):
    """Smaller perturbation sets in the first epochs, then the full ones.

    A first epoch at a third of the radius helps on MNIST, where training at the full radius can
    otherwise stay at chance (released code of Tramèr and Boneh, 2019).

    Args:
        scheme: what is trained.
        shares: the factor of all budgets in the first, second... epoch, each positive.
    """

    recorded_as: ClassVar[str] = "Ramp"
    scheme: Scheme
    shares: tuple[float, ...] = (1 / 3,)

    def __post_init__(self) -> None:
        if not all(0 < share < float("inf") for share in self.shares):
            raise ValueError(f"RadiusWarmup: shares must be positive and finite, got {self.shares}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The losses with the full sets."""
        return self.scheme(model, x, y, rng)

    def at(self, epoch: int, robust: Mapping[str, float]) -> Scheme:
        """The scheme with the sets of this epoch."""
        scheme = self.scheme.at(epoch, robust)
        return with_budgets(scheme, self.shares[epoch]) if epoch < len(self.shares) else scheme


def with_budgets(value: Part, share: float) -> Part:
    """A scheme or attack with the budgets of every set in it multiplied.

    Args:
        value: a frozen dataclass, or a tuple of such, with sets anywhere inside. Step lengths
            that were given as numbers stay as they are.
        share: the factor, positive.
    """
    result: Any = value
    if isinstance(value, PerturbationSet):
        result = value.scaled(share)
    elif isinstance(value, tuple):
        result = tuple(with_budgets(part, share) for part in value)
    elif is_dataclass(value) and not isinstance(value, type):
        given = [field.name for field in fields(value) if field.init]
        result = replace(value, **{n: with_budgets(getattr(value, n), share) for n in given})
    return cast(Part, result)
