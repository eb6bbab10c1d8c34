"""Models made safe to question: no crash without a gradient, no NaN, randomness averaged out."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mpkit.attacks import Margin
from mpkit.attacks.gradients import Model, evaluating

LARGE = 1e30
"""Logits are cut off here, so that scores of a model that overflows stay finite."""


class Connected(nn.Module):
    """The same logits, always with a gradient: zero where the model passes none back.

    A model may compute without gradients, detach its input, or leave torch altogether. What a
    gradient attack sees of it is a gradient of zero, and that is what this wrapper gives.

    Args:
        model: images (B, C, H, W) to logits (B, K).
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.model(x)
        try:
            logits = self.model(x)
        except RuntimeError:  # such as numpy() of a tensor that wants a gradient
            logits = self.model(x.detach())
        return logits + 0 * x.flatten(1).sum(1, keepdim=True)


class Forgetful(nn.Module):
    """A model as it was before anything was asked, in every call again.

    Args:
        fresh: images (B, C, H, W) to logits (B, K), with whatever state it has.
    """

    def __init__(self, fresh: nn.Module) -> None:
        super().__init__()
        self.fresh = fresh

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        shared = {id(weight): weight for weight in self.fresh.parameters()}
        logits: Tensor = copy.deepcopy(self.fresh, shared)(x)
        return logits


class Sanitized(Connected):
    """The same logits with gradients always there and finite: what is not finite becomes zero.

    Logits that are not finite are cut off: NaN to zero, an infinity to a very large number.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits = super().forward(_FiniteGradient.apply(x))
        return torch.nan_to_num(logits).clamp(-LARGE, LARGE)


WILD = {"sqrt", "rsqrt", "pow", "log", "log2", "log10", "log1p", "div", "true_divide", "truediv"}
WILD |= {"norm", "linalg_norm", "linalg_vector_norm", "normalize", "cosine_similarity", "cdist"}
WILD |= {"std", "var", "acos", "asin", "acosh", "atanh", "reciprocal", "xlogy", "rpow", "rdiv"}
"""Operations whose slope may be infinite where they are defined, or not a number."""


class _Finite(TorchFunctionMode):
    """While it is on, what is not finite becomes zero in the backward pass of each operation."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "").strip("_") in WILD:
            args = tuple(
                _FiniteGradient.apply(a) if isinstance(a, Tensor) and a.requires_grad else a
                for a in args
            )
        return func(*args, **(kwargs or {}))


class Tamed(nn.Module):
    """The same logits; a slope that is not finite is left out where it arises, and no other.

    One root of zero inside a network makes the gradient of a whole image not a number.

    Args:
        model: images (B, C, H, W) to logits (B, K).
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        with _Finite():
            logits: Tensor = self.model(x)
        return logits


class EOT(nn.Module):
    """The mean logits over several calls, and its gradient: expectation over transformation.

    With a positive ``spread`` each call sees other Gaussian noise on the image, and the gradient
    becomes that of a smoothed model.

    Args:
        model: images (B, C, H, W) to logits (B, K), random or not.
        draws: number of calls.
        spread: standard deviation of the noise in pixel units, or 0 for none.
        rng: draws the noise.

    Source: Athalye, Carlini and Wagner 2018.
    """

    def __init__(self, model: nn.Module, draws: int, spread: float, rng: torch.Generator) -> None:
        super().__init__()
        self.model, self.draws, self.spread, self.rng = model, draws, spread, rng

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits (B, K)."""
        return torch.stack([self.model(self._noisy(x)) for _ in range(self.draws)]).mean(0)

    def _noisy(self, x: Tensor) -> Tensor:
        if not self.spread:
            return x
        noise = torch.randn(x.shape, generator=self.rng, dtype=x.dtype, device=x.device)
        return x + self.spread * noise


class TemperatureScaled(nn.Module):
    """Logits divided by a temperature: the same classes, and a softmax that is not flat.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        temperature: > 0; a quarter of the usual lead leaves the softmax a slope.

    Source: Carlini and Wagner 2017, against defensive distillation.
    """

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, max(temperature, 1e-30)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.model(x)
        return logits / self.temperature


class Contenders(nn.Module):
    """The same logits, but classes that never win lie far below all others and get no gradient.

    Where a class holds the second place for ever and never wins, the margin over it cannot be
    raised, and that over the others is not looked at.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        alive: (K,) bool, classes that occur in the labels or win somewhere.
    """

    def __init__(self, model: nn.Module, alive: Tensor) -> None:
        super().__init__()
        self.model, self.alive = model, alive

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.model(x)
        return logits.masked_fill(~self.alive, -LARGE)


class LogScores(nn.Module):
    """The logarithm of outputs that are not negative: of probabilities or exponentials.

    Args:
        model: images (B, C, H, W) to scores (B, K), ≥ 0.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        scores: Tensor = self.model(x)
        return torch.log(scores.clamp(min=torch.finfo(scores.dtype).tiny))


class Assessed(NamedTuple):
    """What a model makes of images: the mean margin (B,), and whether it is wrong (B,) bool.

    A margin is the greatest wrong logit minus the true one.
    """

    margin: Tensor
    wrong: Tensor


@torch.no_grad()
def assess(model: Model, x: Tensor, y: Tensor, draws: int) -> Assessed:
    """Ask a model afresh about images; a random one several times, and the majority counts.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W).
        y: (B,) int64.
        draws: how often to ask; 1 for a model that always says the same.

    Returns: where logits are NaN, the model counts as wrong.
    """
    margins, wrong = [], []
    with evaluating(model):
        for _ in range(draws):
            logits = model(x).detach()
            lost = logits.isnan().any(1)
            logits = torch.nan_to_num(logits).clamp(-LARGE, LARGE).to(x.dtype)
            margins.append(Margin()(logits, y))
            wrong.append((logits.argmax(1) != y) | lost)
    share = torch.stack(wrong).to(x.dtype).mean(0)
    return Assessed(torch.stack(margins).mean(0), share >= 0.5)


class _FiniteGradient(torch.autograd.Function):
    """The identity; backwards, what is not finite becomes zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return torch.nan_to_num(gradients[0], nan=0.0, posinf=0.0, neginf=0.0)
