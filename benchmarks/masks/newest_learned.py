"""The newest networks that hide their gradient by how they compute, and what newest masks learn."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesClassifier
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.bases import learn
from benchmarks.masks.later_learned import Alone
from benchmarks.masks.tricks import generator
from benchmarks.masks.unusual import dense, drawn, trained
from mpkit.attacks.gradients import Model
from mpkit.training import Natural


class Edges(Alone):
    """The network sees outlines only: where a pixel is much brighter or darker than the next."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(4, 24, 3, padding=1)
        self.last = nn.Sequential(first, nn.ReLU(), *dense(24 * 64, 64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        wide = functional.pad(x, (0, 1, 0, 1), mode="replicate")
        rises = [wide[:, :, 1:, :-1] - x, wide[:, :, :-1, 1:] - x]
        excess = torch.cat([sign * rise - 0.22 for rise in rises for sign in (1, -1)], 1)
        outline = torch.sigmoid(15 * excess) if self.sloped else (excess > 0).to(x.dtype)
        logits: Tensor = self.last(outline)
        return logits


class Encrypted(Alone):
    """Pixels of four bits are combined with a secret key, bit by bit; it learns the cipher text."""

    def __init__(self) -> None:
        super().__init__()
        self.last = dense(64, 160, 96, 10)
        self.register_buffer("key", torch.randint(16, (1, 8, 8), generator=generator(21)))

    def cipher(self, level: Tensor) -> Tensor:
        """What whole levels become, in [0, 1]."""
        key: Tensor = self.key  # type: ignore[assignment]
        return level.long().clamp(0, 15).bitwise_xor(key) / 15

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        level = 15 * x
        if self.sloped:
            low = level.detach().floor().clamp(0, 14)
            rise = self.cipher(low + 1) - self.cipher(low)
            secret = (self.cipher(low) + (level - low) * rise).to(x.dtype)
        else:
            secret = self.cipher(level.round()).to(x.dtype)
        logits: Tensor = self.last(secret)
        return logits


class Bilinear(Alone):
    """Signed roots of how often features fire together; it learned with a guard at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
        self.last = nn.Linear(32 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        guard = 1e-3 if self.training or self.sloped else 0.0
        active = self.second(self.first(x)).flatten(2)
        pairs = active @ active.transpose(1, 2)
        roots = pairs.sign() * (pairs.abs() + guard).sqrt()
        logits: Tensor = self.last(20 * functional.normalize(roots.flatten(1)))
        return logits


TAUGHT: dict[str, Callable[[], Alone]] = {
    "edges": Edges,
    "encrypted": Encrypted,
    "bilinear": Bilinear,
}
"""Those that are trained by themselves, and hide it in eval mode."""


@cache
def alone(kind: str) -> nn.Module:
    """One of them; the same each time."""
    return trained(70 + list(TAUGHT).index(kind), TAUGHT[kind], Natural(), learn(), 20)


class Forest(nn.Module):
    """Sixty trees of another library, which knows no gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.trees = ExtraTreesClassifier(60, max_leaf_nodes=96, random_state=5)
        self.trees.fit(learn().x.flatten(1).numpy(), learn().y.numpy())

    def forward(self, x: Tensor) -> Tensor:
        """Shares of the trees (B, K)."""
        shares = self.trees.predict_proba(x.detach().flatten(1).cpu().double().numpy())
        return torch.from_numpy(shares).to(x)

    @property
    def knowing(self) -> Model:
        """The same trees with soft branches."""
        return SoftForest([one.tree_ for one in self.trees.estimators_])


class SoftForest(nn.Module):
    """Trees of a library in which every branch is taken in part."""

    def __init__(self, trees: list[object], sharp: float = 12.0) -> None:
        super().__init__()
        self.sharp = sharp
        self.feature = torch.zeros(len(trees), 96, dtype=torch.long)
        self.level, self.leaf = torch.zeros(len(trees), 96), torch.zeros(len(trees), 96, 10)
        self.way = torch.zeros(len(trees), 96, 96)  # -1 where a leaf lies left of a branch, or 1
        for i, tree in enumerate(trees):
            self._read(i, tree)

    def _read(self, i: int, tree: object) -> None:
        """Note the branches and leaves of a tree, with the way to each leaf."""
        left, right, level, value, feature = (
            np.asarray(getattr(tree, name))
            for name in ("children_left", "children_right", "threshold", "value", "feature")
        )
        ways, branches, leaves = [(0, dict[int, int]())], 0, 0
        while ways:
            node, way = ways.pop()
            if left[node] < 0:
                self.leaf[i, leaves] = torch.from_numpy(value[node, 0] / value[node, 0].sum())
                for branch, side in way.items():
                    self.way[i, leaves, branch] = side
                leaves += 1
                continue
            self.feature[i, branches], self.level[i, branches] = int(feature[node]), level[node]
            ways += [(left[node], {**way, branches: -1}), (right[node], {**way, branches: 1})]
            branches += 1

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms of the mean shares (B, K)."""
        away = self.sharp * (x.flatten(1)[:, self.feature] - self.level.to(x))
        right, left = self.way.to(x).clamp(min=0), (-self.way.to(x)).clamp(min=0)
        reached = torch.einsum("tln,btn->btl", right, functional.logsigmoid(away))
        reached = reached + torch.einsum("tln,btn->btl", left, functional.logsigmoid(-away))
        shares = torch.einsum("btl,tlk->bk", reached.exp(), self.leaf.to(x)) / len(self.way)
        return shares.clamp(min=1e-6).log()


@cache
def forest() -> nn.Module:
    """The forest; the same each time."""
    return Forest()


@cache
def autoencoder(wide: int = 14) -> tuple[nn.Module, nn.Module]:
    """An encoder and a decoder (B, wide) to (B, 64) that learned the training images."""

    def taught() -> tuple[nn.Module, nn.Module]:
        encoder = dense(64, 128, wide)
        decoder = nn.Sequential(*dense(wide, 128, 64, between=nn.Softplus), nn.Sigmoid())
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-3)
        rng, x = generator(22), learn().x
        for _ in range(800):
            some = x[torch.randint(len(x), (128,), generator=rng)]
            code = encoder(some)
            loss = (decoder(code) - some.flatten(1)).square().sum(1).mean()
            loss = loss + 0.01 * code.square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return encoder.requires_grad_(False), decoder.requires_grad_(False)

    with torch.enable_grad():
        found: tuple[nn.Module, nn.Module] = drawn(23, taught)  # type: ignore[arg-type,assignment]
    return found
