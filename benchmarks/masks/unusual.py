"""Networks that are trained in an unusual way, honest or hiding, and more ways to hide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.tricks import Wrapped, generator
from mpkit.data import Images
from mpkit.models import small_cnn
from mpkit.training import Natural, Recipe, Scheme, fit


def drawn(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """What is built, and perhaps trained, with all that layers draw from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def dense(
    *widths: int, between: Callable[[], nn.Module] = nn.ReLU, extra: Sequence[nn.Module] = ()
) -> nn.Sequential:
    """Linear layers with something between them."""
    layers = [nn.Flatten()]
    for i, (wide, narrow) in enumerate(pairwise(widths)):
        layers += [nn.Linear(wide, narrow), between(), *extra] if i < len(widths) - 2 else []
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def convolutional(channels: int = 16) -> nn.Sequential:
    """Convolutions with batch normalization and max-pooling."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * channels, 10),
    )


@dataclass(frozen=True)
class Smoothed(Scheme):
    """Label smoothing."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The loss of every example."""
        return functional.cross_entropy(model(x), y, reduction="none", label_smoothing=0.2)


@dataclass(frozen=True)
class Mixed(Scheme):
    """Mixup."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The loss of every example."""
        share = torch.rand((), generator=rng).to(x)
        other = torch.randperm(len(x), generator=rng)
        logits = model(share * x + (1 - share) * x[other])
        ends = (functional.cross_entropy(logits, t, reduction="none") for t in (y, y[other]))
        first, second = ends
        return share * first + (1 - share) * second


HONEST = {
    "dropout in eval mode": (lambda: dense(64, 128, 128, 10, extra=[nn.Dropout(0.4)]), Natural()),
    "wide": (lambda: dense(64, 1000, 10), Natural()),
    "batch normalization": (convolutional, Natural()),
    "label smoothing": (lambda: dense(64, 128, 10), Smoothed()),
    "mixup": (lambda: dense(64, 128, 10), Mixed()),
    "smooth": (lambda: dense(64, 128, 10, between=nn.Tanh), Natural()),
    "linear": (lambda: dense(64, 10), Natural()),
    "narrow": (lambda: dense(64, 8, 10), Natural()),
    "layer normalization": (lambda: dense(64, 96, 10, extra=[nn.LayerNorm(96)]), Natural()),
    "hardly trained": (lambda: small_cnn((1, 8, 8), 10, generator(5)), Natural()),
}


def trained(
    seed: int, build: Callable[[], nn.Module], scheme: Scheme, learn: Images, epochs: int = 8
) -> nn.Module:
    """A network that was trained on the images; the same each time."""

    def taught() -> nn.Module:
        network = build()
        fit(network, learn, scheme, Recipe(epochs=epochs, batch=128), generator(seed))
        return network

    return drawn(seed, taught).eval()


class Winners(nn.Module):
    """Only the largest activations pass: which ones jumps from point to point."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        flat = x.flatten(1)
        least = flat.topk(max(1, flat.shape[1] // 10), 1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


def winners() -> nn.Sequential:
    """A network in which only the largest activations pass."""
    network = small_cnn((1, 8, 8), 10, generator(4))
    return nn.Sequential(*(Winners() if isinstance(m, nn.ReLU) else m for m in network))


class Thermometer(nn.Module):
    """Each pixel becomes a column of hard thresholds."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        levels = torch.arange(8, dtype=x.dtype).view(1, 1, -1, 1, 1) / 8
        return (x[:, :, None] > levels).to(x.dtype).flatten(1, 2)


def thermometer() -> nn.Sequential:
    """A network that sees columns of thresholds."""
    return nn.Sequential(Thermometer(), small_cnn((8, 8, 8), 10, generator(6)))


class SoftColumns(nn.Module):
    """Thermometer codes with soft thresholds, for who knows the network that sees hard ones."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.network = model[1]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        levels = torch.arange(8, dtype=x.dtype).view(1, 1, -1, 1, 1) / 8
        return self.network(torch.sigmoid(12 * (x[:, :, None] - levels)).flatten(1, 2))


class NamesOnly(Wrapped):
    """The class and nothing else."""

    def __init__(self, network: nn.Module, classes: int = 10) -> None:
        super().__init__(network)
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return functional.one_hot(self.network(x).argmax(1), self.classes).to(x.dtype)


class Stopped(nn.Module):
    """The branch that decides has no gradient; the one that has does next to nothing."""

    def __init__(self, network: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.network, self.other = network, other

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(x.detach()) - 0.01 * self.other(x)


class AnyOf(Wrapped):
    """One of several ways of changing the image, drawn for each call, three calls averaged."""

    def __init__(self, network: nn.Module, rng: torch.Generator) -> None:
        super().__init__(network)
        self.rng = rng

    def changed(self, x: Tensor) -> Tensor:
        """The image changed in one of three ways."""
        way = int(torch.randint(3, (), generator=self.rng))
        if way == 0:
            return x + 0.15 * torch.randn(x.shape, generator=self.rng, dtype=x.dtype)
        if way == 1:
            step = torch.randint(-1, 2, (2,), generator=self.rng).tolist()
            return x.roll(step, (2, 3))
        return functional.interpolate(functional.interpolate(x, 6, mode="bilinear"), 8)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return torch.stack([self.network(self.changed(x)) for _ in "abc"]).mean(0)


class Remembers(Wrapped):
    """Repeats what it said about an image close to the one it is asked about."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.images, self.answers = None, None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        said, asked = self.network(x), x.detach()
        if self.images is None:
            self.images, self.answers = asked[:0].flatten(1), said[:0].detach()
        if len(self.images):
            apart, nearest = torch.cdist(asked.flatten(1), self.images).min(1)
            said = torch.where((apart < 1)[:, None], self.answers[nearest], said)
        if len(self.images) < 500:
            self.images = torch.cat([self.images, asked.flatten(1)])
            self.answers = torch.cat([self.answers, said.detach()])
        return said


class Watches(Stopped):
    """Another network answers when a gradient is asked for."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return (self.other if x.requires_grad else self.network)(x)


class Neighbours(nn.Module):
    """Votes of the nearest training images."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        self.known, self.votes = images.x.flatten(1), functional.one_hot(images.y, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        nearest = torch.cdist(x.flatten(1), self.known.to(x)).topk(5, largest=False).indices
        return self.votes.to(x)[nearest].sum(1)


class Sometimes(Wrapped):
    """Half of the images get no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        bright = (x.mean((1, 2, 3)) > 0.3).view(-1, 1, 1, 1)
        return self.network(torch.where(bright, x.detach(), x))


def more_masks(
    network: nn.Module, other: nn.Module, learn: Images
) -> dict[str, tuple[nn.Module, str]]:
    """Kinds of masking, with the ball of the digits in which each is looked at."""
    return {
        "thermometer": (trained(6, thermometer, Natural(), learn), "l2"),
        "names only": (NamesOnly(network), "l1"),
        "stopped gradient": (Stopped(network, other), "linf"),
        "one of several changes": (AnyOf(network, generator(1)), "l2"),
        "remembers": (Remembers(network), "l1"),
        "watches": (Watches(network, other), "linf"),
        "neighbours": (Neighbours(learn), "l2"),
        "sometimes": (Sometimes(network), "l1"),
    }
