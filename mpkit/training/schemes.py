"""Training schemes: how attacks become one loss per example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from mpkit.attacks import Attack
from mpkit.attacks.gradients import evaluating


@dataclass(frozen=True)
class Scheme(ABC):
    """Turns a batch into one differentiable loss per example; never averages, never steps."""

    @abstractmethod
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The loss of every example.

        Args:
            model: the network in its training mode; attacks run it in eval mode.
            x: (B, C, H, W) in [0, 1].
            y: (B,) int64.
            rng: drives the attacks.

        Returns: (B,) losses with gradients to the parameters.
        """

    def at(self, epoch: int, robust: Mapping[str, float]) -> Scheme:
        """The scheme to use in an epoch; most are the same in all of them.

        Args:
            epoch: counted from 0.
            robust: the accuracies that the last validation measured, by name; may be empty.
        """
        return self

    def settled(self, rng: torch.Generator) -> Scheme:
        """The scheme for one batch, with what the host must decide decided.

        A step on a GPU is recorded and replayed, so it cannot wait for a number from the device.

        Args:
            rng: on the CPU.
        """
        return self


@dataclass(frozen=True)
class Natural(Scheme):
    """Training on the images as they are: the cross-entropy of every clean example."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The cross-entropy at x."""
        return cross_entropy(model(x), y, reduction="none")


@dataclass(frozen=True)
class Single(Scheme):
    """Adversarial training against one attack (Madry et al. 2018, equation 2.1).

    With ``Worst(...)``, a union's or an affine attack this is also the paper's max scheme, MSD
    or affine training: those are attacks.

    Args:
        attack: the inner search.
    """

    attack: Attack

    def __post_init__(self) -> None:
        if not callable(self.attack):
            raise ValueError(
                f"Single: attack must be callable as attack(model, x, y, rng), got {self.attack!r}"
                "; for training without an attack take Natural()"
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The cross-entropy at the image that the attack found."""
        return cross_entropy(model(self.attack(model, x, y, rng).image), y, reduction="none")


@dataclass(frozen=True)
class Several(Scheme):
    """A scheme of several attacks.

    Args:
        attacks: at least one.
    """

    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        check_attacks(type(self).__name__, self.attacks)


@dataclass(frozen=True)
class Average(Several):
    """Every attack's examples, each with the same weight (Tramèr and Boneh 2019, avg strategy)."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The mean over the attacks of the cross-entropy at the images found."""
        images = [attack(model, x, y, rng).image for attack in self.attacks]
        losses = [cross_entropy(model(image), y, reduction="none") for image in images]
        return torch.stack(losses).mean(dim=0)


@dataclass(frozen=True)
class Max(Several):
    """For every example the attack that hurts most (Tramèr and Boneh 2019, the max strategy).

    The attacks are compared by cross-entropy, whatever loss each of them climbs, so their scores
    need not be comparable; the comparison runs in eval mode and without gradients.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The cross-entropy at the worst of the images found for each example."""
        images, worst = _compared(self.attacks, model, x, y, rng)
        chosen = images[worst, torch.arange(len(x), device=x.device)]
        return cross_entropy(model(chosen), y, reduction="none")


@dataclass(frozen=True)
class Random(Several):
    """One attack per batch, drawn at random ("SAT": Madaan, Shin and Hwang 2021).

    Args:
        attacks: at least one.
        weights: how often each is drawn, in proportion; empty for equally often.
    """

    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and len(self.weights) != len(self.attacks):
            raise ValueError(
                f"Random: weights must be empty or one per attack, got {len(self.weights)} for "
                f"{len(self.attacks)} attacks"
            )
        if self.weights and not (min(self.weights) >= 0 < sum(self.weights) < float("inf")):
            raise ValueError(
                f"Random: weights must be finite, not negative and not all zero, got {self.weights}"
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The cross-entropy at the images of the attack that was drawn."""
        return self.settled(rng)(model, x, y, rng)

    def settled(self, rng: torch.Generator) -> Scheme:
        """Training against the attack that is drawn."""
        weights = self.weights or (1.0,) * len(self.attacks)
        chances = torch.tensor(weights, dtype=torch.float64, device=rng.device)
        return Single(self.attacks[int(torch.multinomial(chances, 1, generator=rng))])


@dataclass(frozen=True)
class LogitPairing(Scheme):
    """Max over two attacks, and answers that agree: the logit pairing of RAMP (2024).

    To the loss of :class:`Max` it adds a weight times :func:`pairing` of the answers at the images
    of both attacks: what holds in one set shall hold in the other. Both images of an example pass
    through the network, and with them their statistics through batch normalization.

    Args:
        first: the attack in the set that is to keep its robustness, l_inf in RAMP.
        second: the attack in the set that is traded against it, l_1 in RAMP.
        weight: of the divergence, >= 0; RAMP takes 1.5 for fine-tuning and 5 from the start.

    Raises: ValueError: an argument is unfit.

    Source: Jiang and Singh 2024 and their released code; its gradient projection is a matter of
    the recipe, see :class:`mpkit.training.gradient_projection.Alongside`.
    """

    recorded_as: ClassVar[str] = "Paired"
    first: Attack
    second: Attack
    weight: float = 1.5

    def __post_init__(self) -> None:
        check_attacks("LogitPairing", (self.first, self.second))
        if not 0 <= self.weight < float("inf"):
            raise ValueError(
                f"LogitPairing: weight must be finite and not negative, got {self.weight}; "
                "RAMP has 1.5"
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The cross-entropy at the worse image plus the weighted divergence."""
        images, worst = _compared((self.first, self.second), model, x, y, rng)
        logits = torch.stack([model(image.clone()) for image in images])
        chosen = logits[worst, torch.arange(len(x), device=x.device)]
        hurt = cross_entropy(chosen, y, reduction="none")
        return hurt + self.weight * pairing(logits[0], logits[1], y)


def pairing(first: Tensor, second: Tensor, y: Tensor) -> Tensor:
    """The pairing term of RAMP: where ``first`` is right, how far ``second`` is from it.

    Args:
        first: (B, K) logits at the images of one attack.
        second: (B, K) logits at those of another.
        y: (B,) int64.

    Returns: (B,) >= 0, zero where ``first`` is wrong; elsewhere the Kullback-Leibler divergence
    KL(p, q) in nats, where p are the class probabilities of ``first`` and q those of ``second``,
    divided by the share of the batch where ``first`` is right. So the mean over the batch is the
    divergence's mean over the examples where ``first`` is right. Gradients go through both.
    """
    right = first.argmax(dim=1) == y
    apart = kl_div(
        second.log_softmax(dim=1), first.log_softmax(dim=1), reduction="none", log_target=True
    ).sum(dim=1)
    share = right.to(first.dtype).mean().clamp(min=1 / len(y))
    return torch.where(right, apart, apart.new_zeros(())) / share


def _compared(
    attacks: tuple[Attack, ...], model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(K, B, C, H, W) images that K attacks find, and (B,) which hurt most, seen in eval mode."""
    images = torch.stack([attack(model, x, y, rng).image for attack in attacks])
    with evaluating(model), torch.no_grad():
        losses = [cross_entropy(model(image.clone()), y, reduction="none") for image in images]
    return images, torch.stack(losses).argmax(dim=0)


def check_attacks(who: str, attacks: tuple[Attack, ...]) -> None:
    """Refuse anything but a tuple of at least one attack.

    Raises: ValueError: naming the scheme and what to do.
    """
    if not isinstance(attacks, tuple) or not attacks or not all(map(callable, attacks)):
        raise ValueError(
            f"{who}: needs a tuple of at least one attack, got {attacks!r}; for training without "
            "an attack take Natural()"
        )
