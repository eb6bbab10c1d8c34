"""Masks in front of a network, kept aside: the doctor was finished before they were written.

Each shows the network something else than the image; who knows it passes it straight through.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.known import Behind, Through
from benchmarks.masks.tricks import generator
from mpbook.teaching.obfuscated import cosines
from mpkit.attacks.gradients import Model
from mpkit.data import Images
from mpkit.masking import EOT
from mpkit.models import DeadZone


class Bytes(Behind):
    """Pixels travel as whole numbers of eight bits."""

    def shown(self, x: Tensor) -> Tensor:
        """The image after the journey."""
        return (x * 255).round().to(torch.uint8).to(x.dtype) / 255


class Dithered(Behind):
    """Two grey levels, compared with a threshold that changes from pixel to pixel."""

    def shown(self, x: Tensor) -> Tensor:
        """A pattern of black and white."""
        two = torch.tensor([[0, 2], [3, 1]], dtype=x.dtype)
        four = torch.cat(
            [torch.cat([4 * two, 4 * two + 2], 1), torch.cat([4 * two + 3, 4 * two + 1], 1)]
        )
        levels = ((four + 0.5) / 16).repeat(2, 2)
        return (x > levels).to(x.dtype)


class Diffused(Behind):
    """Few grey levels, and what rounding loses is handed on to the next pixel."""

    def shown(self, x: Tensor) -> Tensor:
        """Rounded pixels, from left to right."""
        columns, error = [], torch.zeros_like(x[..., 0])
        for column in x.unbind(-1):
            wanted = column + error
            columns.append((wanted * 3).round().clamp(0, 3) / 3)
            error = wanted - columns[-1]
        return torch.stack(columns, -1)


class Equalised(Behind):
    """Each pixel becomes its rank among the pixels of the image."""

    def shown(self, x: Tensor) -> Tensor:
        """Ranks, which lie evenly, under a curve that gives back the usual brightness."""
        flat = (x + 1e-6 * torch.arange(x[0].numel(), dtype=x.dtype).view(x[0].shape)).flatten(1)
        ranks = flat.argsort(1).argsort(1).to(x.dtype) / (flat.shape[1] - 1)
        return (2 * ranks - 1).clamp(min=0).view_as(x)


class Root(Behind):
    """A ninth root about one half: steep there, flat elsewhere, smooth nearly everywhere."""

    def shown(self, x: Tensor) -> Tensor:
        """Pixels pushed to black and white."""
        away = 2 * x - 1
        return 0.5 + 0.5 * away.sign() * (away.abs() + 1e-12) ** (1 / 9)


class Words(Behind):
    """Patches of two by two pixels become the nearest of 48 patches of training images."""

    def __init__(self, network: nn.Module, learn: Images) -> None:
        super().__init__(network, generator())
        patches = functional.unfold(learn.x[:400], 2, stride=2).transpose(1, 2).flatten(0, 1)
        rng = torch.Generator().manual_seed(2)
        book = patches[torch.randperm(len(patches), generator=rng)[:48]]
        for _ in range(10):
            nearest = torch.cdist(patches, book).argmin(1)
            means = [
                patches[nearest == k].mean(0) if (nearest == k).any() else book[k]
                for k in range(48)
            ]
            book = torch.stack(means)
        self.book = book

    def shown(self, x: Tensor) -> Tensor:
        """The image in words."""
        patches = functional.unfold(x, 2, stride=2).transpose(1, 2)
        words = self.book.to(x)[torch.cdist(patches, self.book.to(x)[None]).argmin(-1)]
        return functional.fold(words.transpose(1, 2), x.shape[2:], 2, stride=2)


class Nearest(Behind):
    """Half the image, half the training image that is nearest to it."""

    def __init__(self, network: nn.Module, learn: Images) -> None:
        super().__init__(network, generator())
        self.known = learn.x

    def shown(self, x: Tensor) -> Tensor:
        """The mixture; the choice passes no gradient, and neither does the half."""
        nearest = torch.cdist(x.detach().flatten(1), self.known.to(x).flatten(1)).argmin(1)
        return (x.detach() + self.known.to(x)[nearest]) / 2


class Denoised(Behind):
    """Thirty steps that smooth the image and keep it near, without a gradient."""

    @torch.no_grad()
    def shown(self, x: Tensor) -> Tensor:
        """A smoother image with sharp edges."""
        image = x.clone()
        for _ in range(30):
            pull = 2 * (image - x)
            for axis in (2, 3):
                rise = image.diff(dim=axis).sign()
                pad = [0, 0, 0, 0]
                pad[2 * (3 - axis)], before = 1, [0, 0, 0, 0]
                before[2 * (3 - axis) + 1] = 1
                pull += 0.3 * (functional.pad(rise, pad) - functional.pad(rise, before))
            image = image - 0.05 * pull
        return image.clamp(0, 1)


class Largest(Behind):
    """Of the cosine coefficients only the twelve largest are kept, each rounded to its half."""

    def shown(self, x: Tensor) -> Tensor:
        """The image from few waves."""
        down = cosines(x.shape[2]).to(x)
        waves = (down @ x @ down.T).flatten(1)
        least = waves.abs().topk(12, 1).values[:, -1:]
        kept = torch.where(waves.abs() >= least, (2 * waves).round() / 2, 0.0)
        return (down.T @ kept.view_as(x) @ down).clamp(0, 1)


class Zoned(Behind):
    """A dead zone: nothing that is nearly black or nearly white moves."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, generator())
        self.zone = DeadZone(0.3)

    def shown(self, x: Tensor) -> Tensor:
        """Pixels beyond the zone, stretched."""
        shown: Tensor = self.zone(x)
        return shown


class Cropped(Behind):
    """Enlarged to a random size and cropped at random in every call."""

    def shown(self, x: Tensor) -> Tensor:
        """A random part of the image."""
        side = int(torch.randint(9, 12, (), generator=self.rng))
        large = functional.interpolate(x, side, mode="bilinear", align_corners=False)
        top, left = torch.randint(side - 7, (2,), generator=self.rng).tolist()
        return large[:, :, top : top + 8, left : left + 8]

    @property
    def knowing(self) -> Model:
        """The mean over draws."""
        return EOT(self, 16, 0.0, self.rng)


class Patched(Behind):
    """A random square is covered in every call, and what is left is rounded."""

    def shown(self, x: Tensor) -> Tensor:
        """The image behind a grey patch."""
        top, left = torch.randint(6, (2,), generator=self.rng).tolist()
        covered = (x * 6).round() / 6
        covered[:, :, top : top + 3, left : left + 3] = 0
        return covered

    @property
    def knowing(self) -> Model:
        """The mean over draws, straight through."""
        return EOT(Through(self.network, self.shown), 16, 0.0, self.rng)


class Switched(nn.Module):
    """One of three networks answers: which one, the pixels' smallest digits say."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        which = (x.detach().sum((1, 2, 3)) * 9973).long() % len(self.networks)
        every = torch.stack([network(x) for network in self.networks])
        return every[which, torch.arange(len(x))]

    @property
    def knowing(self) -> Model:
        """The mean of the networks."""
        return lambda x: torch.stack([network(x) for network in self.networks]).mean(0)
