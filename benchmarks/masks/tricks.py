"""Ways to hide a gradient, and honest oddities, that the doctor's indicators were not made with."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mpkit.attacks.gradients import Model


def generator(seed: int = 0) -> torch.Generator:
    """A source of randomness of its own."""
    return torch.Generator().manual_seed(seed)


class Wrapped(nn.Module):
    """A network behind something that hides its gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class KeyedNoise(Wrapped):
    """Noise that is a function of the image: nothing is random, and the gradient is noise."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        key = torch.frac(torch.sin(x.sum((1, 2, 3), keepdim=True) * 997 + x * 313) * 4375)
        return self.network(x + 0.3 * (key - key.detach().mean()))


class ThroughNumpy(Wrapped):
    """A pass through numpy that fails on a tensor that wants a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        image = np.round(x.numpy() * 6) / 6
        return self.network(torch.from_numpy(image.astype(np.float32)).to(x))


class NaNGradient(Wrapped):
    """The square root of zero: right forwards, NaN backwards."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(x + (x - x.detach()).pow(2).sqrt())


class RoundedLogits(Wrapped):
    """Logits in coarse steps."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return (self.network(x) / 2).round() * 2


class SteepSigmoid(Wrapped):
    """A threshold that can be differentiated, with slopes that underflow."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(torch.sigmoid(400 * (x - 0.47)))


class Wiggle(Wrapped):
    """Ripples too small to see and so steep that the gradient shows nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(x + 0.02 * torch.sin(1500 * x))


class Decoy(Wrapped):
    """A backward pass that tells of other pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        x.requires_grad and x.register_hook(lambda g: g.roll((3, 2), (2, 3)).flip(2))
        return self.network(x * 1)


class DropoutAlways(Wrapped):
    """Pixels fall out at random, also when the network is in eval mode."""

    def __init__(self, network: nn.Module, rng: torch.Generator) -> None:
        super().__init__(network)
        self.rng = rng

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        kept = torch.rand(x.shape, generator=self.rng, dtype=x.dtype) > 0.15
        return self.network(x * kept / 0.85)


class Roulette(nn.Module):
    """One of several networks answers, drawn at random for each batch."""

    def __init__(self, networks: Sequence[nn.Module], rng: torch.Generator) -> None:
        super().__init__()
        self.networks, self.rng = nn.ModuleList(networks), rng

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.networks[int(torch.randint(len(self.networks), (), generator=self.rng))](x)


class Levelled(Wrapped):
    """The brightness of the batch is evened out: an image's logits depend on the others in it."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network((x - 0.7 * (x.mean(0, keepdim=True) - 0.3)).clamp(0, 1))


def secretive(network: nn.Module) -> Model:
    """A function, not a module, and no gradient."""

    def ask(x):
        with torch.no_grad():
            return network(x)

    return ask


def unseen_masks(network: nn.Module, other: nn.Module, seed: int) -> dict[str, Model]:
    """Each hides the gradient of the first network."""
    rng = generator(seed)
    return {
        "keyed noise": KeyedNoise(network),
        "through numpy": ThroughNumpy(network),
        "NaN gradient": NaNGradient(network),
        "rounded logits": RoundedLogits(network),
        "steep sigmoid": SteepSigmoid(network),
        "wiggle": Wiggle(network),
        "decoy": Decoy(network),
        "dropout always": DropoutAlways(network, rng),
        "roulette": Roulette([network, other], rng),
        "levelled batch": Levelled(network),
        "function without gradient": secretive(network),
    }


class Committee(nn.Module):
    """The mean of several networks."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return torch.stack([network(x) for network in self.networks]).mean(0)


class LogProbabilities(Wrapped):
    """The logarithm of the softmax."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(x).log_softmax(1)


class Tempered(Wrapped):
    """Small logits."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(x) / 5


class Straight(Wrapped):
    """Rounded pixels with an honest gradient: the straight-through estimate."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(x + ((x * 15).round() / 15 - x).detach())


def unseen_honest(network: nn.Module, other: nn.Module) -> dict[str, Model]:
    """Each looks unusual and hides nothing."""
    return {
        "committee": Committee([network, other]),
        "log-probabilities": LogProbabilities(network),
        "tempered": Tempered(network),
        "straight-through": Straight(network),
        "in train mode": nn.Sequential(nn.Dropout(0.3), network).train(),
        "plain function": lambda x: network(x),
    }
