"""Natural training alongside robust training, and what of it is kept: the second half of RAMP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mpkit.training.run import Run


class Alongside:
    """A second run, without attacks, that sets out from the robust one's weights in every epoch.

    At the end of the epoch the robust network goes back by a share of its own way and on by a
    share of the natural one's, layer by layer, see :func:`projected`. Both runs take their steps
    in turn, so a checkpoint between two steps holds the whole state.

    Args:
        robust: the network that is trained.
        natural: a run of a copy of it, with :class:`mpkit.training.Natural`.
        share: of the natural way, in (0, 1); 0.5 in RAMP.
        average: running means of the network's weights, which are moved as the weights are.

    Source: Jiang and Singh 2024, gradient projection, and their released code, which treats running
    statistics like weights.
    """

    def __init__(
        self, robust: nn.Module, natural: Run, share: float, average: Sequence[Tensor]
    ) -> None:
        self.natural, self.share, self.average = natural, share, average
        self.weights = [weight for weight in robust.parameters() if weight.requires_grad]
        self.ours = _layers(robust)
        self.theirs = _layers(natural.model)
        self.before = [tensor.clone() for tensor in self.ours]
        natural.model.train()

    @torch.no_grad()
    def step(self, epoch: int, number: int) -> None:
        """One natural step; in the first of an epoch both networks are made equal."""
        if number == 0:
            for kept, mine, other in zip(self.before, self.ours, self.theirs, strict=True):
                kept.copy_(mine)
                other.copy_(mine)
        with torch.enable_grad():
            self.natural.step(epoch, number)

    @torch.no_grad()
    def join(self) -> None:
        """The epoch is over: put the two ways together."""
        robust = [weight.clone() for weight in self.weights] if self.average else []
        for start, mine, other in zip(self.before, self.ours, self.theirs, strict=True):
            mine.copy_(start + projected(mine - start, other - start, self.share))
        for mean, weight, was in zip(self.average, self.weights, robust, strict=False):
            mean.add_(weight - was)


def projected(robust: Tensor, natural: Tensor, share: float) -> Tensor:
    """The way of one layer: (1 - share) robust + share max(0, cos) natural.

    Args:
        robust: the change of the layer's weights in an epoch of robust training, any shape.
        natural: that in natural training from the same weights, same shape.
        share: in [0, 1].

    Returns: a tensor of the same shape. cos is the cosine of the angle between both ways; where it
    is not positive, or a way is zero, nothing is taken from the natural one.

    Source: Jiang and Singh 2024, gradient projection.
    """
    a, b = robust.flatten(), natural.flatten()
    length, other = a.norm(), b.norm()
    cosine = torch.where((length > 0) & (other > 0), (a / length).dot(b / other), 0.0)
    return (1 - share) * robust + share * cosine.clamp(min=0) * natural


def _layers(model: nn.Module) -> list[Tensor]:
    """Weights and running statistics, but no counters."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
