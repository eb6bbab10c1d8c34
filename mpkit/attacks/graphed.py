"""Attacks recorded once on a GPU, whole, and replayed for many batches."""

import warnings
from typing import Any

import torch
from torch import Tensor

from mpkit.attacks.base import Attack, AttackResult
from mpkit.attacks.gradients import Model
from mpkit.core import cuda_graphs, trees
from mpkit.core.checks import unread
from mpkit.core.cuda_graphs import Recorder


class GraphedAttack:
    """An attack on one network and batches of one shape, recorded whole and replayed for each.

    The results are those of the attack. The network's weights may change in place between two
    calls, but not be replaced. On a CPU, and with a message where recording fails, every call runs
    the attack itself.

    Args:
        attack: any attack that never waits for the device: not one that lets examples go.
        model: images (B, C, H, W) to logits (B, K).
        x: the first batch, (B, C, H, W); it is attacked once, with all checks.
        y: its labels, (B,) int64.
        recorder: what records; a CUDA graph on a GPU where not given.

    Raises: ValueError: if an argument is unfit.
    """

    def __init__(
        self, attack: Attack, model: Model, x: Tensor, y: Tensor, recorder: Recorder | None = None
    ) -> None:
        self.attack, self.model = attack, model
        self.rng = torch.Generator(x.device).manual_seed(0)
        attack(model, x, y, self.rng)
        recorder = recorder or cuda_graphs.usual(x.device)
        try:
            self.work = recorder(self._search, [x, y], [self.rng])
        except RuntimeError as error:
            warnings.warn(
                f"GraphedAttack: recording {type(attack).__name__} failed ({error}); "
                "running it step by step",
                stacklevel=2,
            )
            self.rng = torch.Generator(x.device)
            self.work = self._search

    def _search(self, x: Tensor, y: Tensor) -> tuple[Any, ...]:
        with unread():
            return tuple(self.attack(self.model, x, y, self.rng))

    def __call__(self, x: Tensor, y: Tensor, rng: torch.Generator) -> AttackResult:
        """Attack a batch; on a GPU nothing is checked but its shape and type, and nothing waits.

        Args:
            x: (B, C, H, W), float32 or float64, in [0, 1].
            y: (B,) int64 labels.
            rng: a generator on the device of x.

        Returns: the worst allowed image seen for each example.
        """
        self.rng.set_state(rng.get_state())
        found = trees.mapped(lambda part: part.clone(), self.work(x, y))
        rng.set_state(self.rng.get_state())
        return AttackResult(*found)
