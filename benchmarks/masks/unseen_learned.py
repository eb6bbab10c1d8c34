"""Networks and classifiers nobody examined before, that hide their gradient by how they compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.bases import learn
from benchmarks.masks.later_learned import Alone
from benchmarks.masks.tricks import generator
from benchmarks.masks.unusual import dense, drawn, trained
from mpkit.attacks.gradients import Model
from mpkit.data import Images
from mpkit.training import Natural, Recipe, fit


class Vocabulary(Alone):
    """Features of each place become the nearest word of a vocabulary that was learned."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(24, 8, 3, stride=2, padding=1), nn.Tanh())
        self.words = nn.Parameter(0.5 * torch.randn(24, 8))
        self.last = dense(8 * 16, 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        features = self.second(self.first(x)).flatten(2).transpose(1, 2)
        said = self.words[torch.cdist(features, self.words[None]).argmin(2)]
        if self.training or self.sloped:
            said = said + features - features.detach()
        logits: Tensor = self.last(said)
        return logits


class CoarseToFine(Alone):
    """A first network names one of five pairs of classes, and the pair's own network decides."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = dense(64, 64, 5)
        self.fine = nn.ModuleList(dense(64, 32, 2) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms of probabilities (B, K); in eval mode those of one pair count alone."""
        pairs = self.coarse(x)
        decided = torch.stack([fine(x).log_softmax(1) for fine in self.fine], 1)
        if self.training or self.sloped:
            return (pairs.log_softmax(1)[:, :, None] + decided).flatten(1)
        named = functional.one_hot(pairs.argmax(1), 5).bool()
        return torch.where(named[:, :, None], decided, -20.0).flatten(1)


class Oriented(Alone):
    """Counts, in sixteen cells, in which of eight directions the brightness rises."""

    def __init__(self) -> None:
        super().__init__()
        self.last = dense(8 * 16, 96, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        wide = functional.pad(x, (1, 1, 1, 1))
        across = wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]
        down = wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]
        turn = 4 / torch.pi * torch.atan2(down, across + 0.02)
        ways = torch.arange(8).to(x).view(1, 8, 1, 1)
        if self.sloped:
            away = ((turn - ways + 4) % 8 - 4).abs()
            counted = (1 - away).clamp(min=0)
            strong = torch.sigmoid(20 * ((across.square() + down.square() + 1e-9).sqrt() - 0.25))
        else:
            counted = (turn.round() % 8 == ways).to(x)
            strong = (across.square() + down.square() > 0.0625).to(x)
        logits: Tensor = self.last(functional.avg_pool2d(counted * strong, 2) - 0.1)
        return logits


TAUGHT: dict[str, Callable[[], Alone]] = {
    "vocabulary": Vocabulary,
    "coarse to fine": CoarseToFine,
    "oriented": Oriented,
}
"""Those that are trained by themselves, and hide it in eval mode."""


@cache
def alone(kind: str) -> nn.Module:
    """One of them; the same each time."""
    return trained(90 + list(TAUGHT).index(kind), TAUGHT[kind], Natural(), learn(), 20)


class LogicGates(Alone):
    """Three layers of logic gates of two inputs each; which gates they are was learned."""

    levels = (0.15, 0.4, 0.7)

    def __init__(self, wide: int = 900) -> None:
        super().__init__()
        gates = torch.zeros(16, 4)  # what each gives for the inputs 00, 01, 10 and 11
        gates[:] = torch.arange(16)[:, None] // 2 ** torch.arange(4) % 2
        self.register_buffer("gates", gates)
        into = [64 * len(self.levels), wide, wide]
        rng = generator(35)
        self.wires = [torch.randint(n, (2, wide), generator=rng) for n in into]
        pass_on = 3.0 * (gates == gates.new_tensor([0, 0, 1, 1])).all(1)
        self.choice = nn.ParameterList(0.5 * torch.randn(wide, 16) + pass_on for _ in into)

    def forward(self, x: Tensor) -> Tensor:
        """How many gates of each class are on, as logits (B, K)."""
        soft, levels = self.training or self.sloped, torch.tensor(self.levels).to(x)
        excess = x.flatten(1)[:, :, None] - levels
        bits = (torch.sigmoid(12 * excess) if self.sloped else (excess > 0).to(x)).flatten(1)
        gates: Tensor = self.gates.to(x)  # type: ignore[operator,assignment]
        for wires, choice in zip(self.wires, self.choice, strict=True):
            table = choice.to(x).softmax(1) @ gates if soft else gates[choice.argmax(1)]
            a, b = bits[:, wires[0]], bits[:, wires[1]]
            pairs = [(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b]
            bits = sum(pair * table[:, i] for i, pair in enumerate(pairs))  # type: ignore[assignment]
        return bits.view(len(x), 10, -1).sum(2) / 5


@cache
def logic_gates() -> nn.Module:
    """The network of gates; the same each time."""

    def taught() -> nn.Module:
        network, recipe = LogicGates(), Recipe(epochs=40, batch=128, lr=0.03)
        fit(network, learn(), Natural(), recipe, generator(95))
        return network

    return drawn(95, taught).eval()


class Hyperdimensional(nn.Module):
    """Signs of sums of long random vectors, one for each place and level, beside the classes'."""

    def __init__(self, learn: Images, long: int = 2000) -> None:
        super().__init__()
        rng = generator(36)
        places = torch.randint(2, (64, 1, long), generator=rng) * 2 - 1
        first = torch.randint(2, (long,), generator=rng) * 2 - 1
        turned = torch.rand(long, generator=rng) < torch.linspace(0, 1, 8)[:, None]
        self.book = (places * torch.where(turned, -first, first)).flatten(0, 1).float()
        signs, classes = self.signs(learn.x), functional.one_hot(learn.y, 10).float()
        counts = classes.T @ signs
        for _ in range(20):  # what is mistaken is added once more, and taken from where it went
            said = functional.one_hot((signs @ counts.sign().T).argmax(1), 10).float()
            counts = counts + (classes - said).T @ signs
        self.classes = counts.sign()

    def sums(self, x: Tensor, soft: bool) -> Tensor:
        """Sums of the vectors of all pixels (B, long)."""
        level = 7 * x.flatten(1).clamp(0, 1)[:, :, None]
        steps = torch.arange(8).to(x)
        near = (1 - (level - steps).abs()).clamp(min=0) if soft else (level.round() == steps).to(x)
        return near.flatten(1) @ self.book.to(x)

    def signs(self, x: Tensor) -> Tensor:
        """The vector of an image (B, long)."""
        return torch.where(self.sums(x, False) >= 0, 1.0, -1.0).to(x)

    def forward(self, x: Tensor) -> Tensor:
        """How well signs agree, as logits (B, K)."""
        return self.signs(x) @ self.classes.to(x).T / 20

    @property
    def knowing(self) -> Model:
        """Levels and signs that are soft."""
        return lambda x: torch.tanh(self.sums(x, True) / 4) @ self.classes.to(x).T / 20


class Elastic(nn.Module):
    """How far the rows of known images must be stretched to fit those of the image, in numpy."""

    def __init__(self, learn: Images, each: int = 14) -> None:
        super().__init__()
        rows = [(learn.y == k).nonzero()[:each, 0] for k in range(10)]
        self.known, self.each = learn.x[torch.cat(rows), 0], each

    def forward(self, x: Tensor) -> Tensor:
        """Minus the least distance for each class, as logits (B, K)."""
        image, known = x.detach().double().cpu().numpy()[:, 0], self.known.double().numpy()
        apart = ((image[:, None, :, None] - known[None, :, None]) ** 2).sum(4)
        best = np.full((len(x), len(known), 9, 9), np.inf)
        best[:, :, 0, 0] = 0
        for i in range(8):
            for j in range(8):
                before = np.minimum(best[:, :, i, j], best[:, :, i, j + 1])
                before = np.minimum(before, best[:, :, i + 1, j])
                best[:, :, i + 1, j + 1] = apart[:, :, i, j] + before
        return torch.from_numpy(-best[:, :, 8, 8].reshape(len(x), 10, -1).min(2)).to(x)

    @property
    def knowing(self) -> Model:
        """The same in torch, with soft minima over the images of a class."""

        def stretched(x: Tensor) -> Tensor:
            apart = (x[:, 0][:, None, :, None] - self.known.to(x)[None, :, None]).square().sum(4)
            none = torch.full_like(apart[:, :, 0, 0], 1e9)
            above = [torch.zeros_like(none), *8 * [none]]
            for i in range(8):
                here = [none]
                for j in range(8):
                    before = torch.minimum(torch.minimum(above[j], above[j + 1]), here[j])
                    here.append(apart[:, :, i, j] + before)
                above = here
            return (-4 * above[8].view(len(x), 10, -1)).logsumexp(2)

        return stretched


class SupportVectors(nn.Module):
    """A support vector machine of another library: votes, and a bit of how clear they were."""

    def __init__(self, learn: Images) -> None:
        super().__init__()
        self.machine = SVC(C=10, gamma=0.3).fit(learn.x.flatten(1).numpy(), learn.y.numpy())

    def forward(self, x: Tensor) -> Tensor:
        """Votes of all pairs of classes (B, K)."""
        votes = self.machine.decision_function(x.detach().flatten(1).cpu().double().numpy())
        return torch.from_numpy(votes).to(x)

    def pairs(self, x: Tensor) -> Tensor:
        """What each of the 45 pairs of classes says (B, 45); positive for the first of the two."""
        of = torch.from_numpy(np.repeat(np.arange(10), self.machine.n_support_))
        weigh = torch.from_numpy(self.machine.dual_coef_).to(x)
        known = torch.from_numpy(self.machine.support_vectors_).to(x)
        near = torch.exp(-0.3 * torch.cdist(x.flatten(1), known).square())
        first, second = torch.triu_indices(10, 10, 1)
        ways = weigh[second - 1] * (of == first[:, None]) + weigh[first] * (of == second[:, None])
        return near @ ways.T + torch.from_numpy(self.machine.intercept_).to(x)

    @property
    def knowing(self) -> Model:
        """The same machine in torch, with votes that are soft."""
        first, second = torch.triu_indices(10, 10, 1)
        sides = functional.one_hot(first, 10) - functional.one_hot(second, 10)
        return lambda x: torch.tanh(2 * self.pairs(x)) @ sides.to(x)


@cache
def denoiser() -> nn.Module:
    """A network that tells the image behind noise of a known level, (B, 1, 8, 8) to the same."""

    def taught() -> nn.Module:
        network, rng, x = Denoiser(), generator(37), learn().x
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        for _ in range(1200):
            some = x[torch.randint(len(x), (128,), generator=rng)]
            level = 0.45 * torch.rand(len(some), 1, 1, 1, generator=rng)
            noisy = some + level * torch.randn(some.shape, generator=rng)
            loss = (network(noisy, level) - some).square().sum((1, 2, 3)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network.requires_grad_(False).eval()

    with torch.enable_grad():
        return drawn(38, taught)


class Denoiser(nn.Module):
    """A dense network that is told the level of the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = dense(65, 192, 192, 64, between=nn.SiLU)

    def forward(self, x: Tensor, level: Tensor | float) -> Tensor:
        """The image behind the noise."""
        told = torch.as_tensor(level, dtype=x.dtype).expand(len(x), 1, 1, 1).flatten(1)
        clean: Tensor = torch.sigmoid(self.layers(torch.cat([x.flatten(1), told], 1)))
        return clean.view_as(x)
