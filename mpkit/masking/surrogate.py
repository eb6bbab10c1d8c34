"""A plain network that imitates a model by its answers, to attack in its stead."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpkit.attacks.gradients import Model, evaluating
from mpkit.models import small_cnn

MIXES = 16
"""Altered copies of each image that the model is asked about."""


class Lesson:
    """What a surrogate learns from: images and the model's answers, softened.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W), the images to stay close to.
        rng: draws the altered copies.
    """

    def __init__(self, model: Model, x: Tensor, rng: torch.Generator) -> None:
        self.model, self.rng, self.softness = model, rng, 1.0
        answers = self.ask(x)
        top = answers.topk(2, dim=1).values
        self.softness = max(float((top[:, 0] - top[:, 1]).median()) / 4, 1e-6)
        images = torch.cat([x, *(self._altered(x) for _ in range(MIXES))])
        self.images, self.answers = images, self.ask(images)

    @torch.no_grad()
    def ask(self, images: Tensor) -> Tensor:
        """The model's logits over their usual lead: (N, K) in a range that softmax resolves."""
        with evaluating(self.model):
            groups = torch.tensor_split(images, -(-len(images) // 512))
            parts = [torch.nan_to_num(self.model(group)) for group in groups]
        return (torch.cat(parts).to(images.dtype) / self.softness).clamp(-20, 20)

    def add(self, images: Tensor) -> None:
        """Ask about more images (N, C, H, W) and learn from them too."""
        self.images = torch.cat([self.images, images])
        self.answers = torch.cat([self.answers, self.ask(images)])

    def teach(self, net: nn.Module, epochs: int) -> None:
        """Train a network on the model's answers."""
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, fused=True)
        net.train()
        with torch.enable_grad():
            for _ in range(epochs):
                order = torch.randperm(len(self.images), generator=self.rng, device=self.rng.device)
                for rows in torch.split(order, 128):
                    said = functional.log_softmax(net(self.images[rows]), 1)
                    wanted = functional.softmax(self.answers[rows], 1)
                    optimizer.zero_grad()
                    (-(wanted * said).sum(1).mean()).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        net.eval()

    def _altered(self, x: Tensor) -> Tensor:
        """Each image part of the way towards another one, and noise of a random size on top."""
        order = torch.randperm(len(x), generator=self.rng, device=self.rng.device)
        share, size = (self._random(x[:, :1, :1, :1]) for _ in "ab")
        noise = torch.randn(x.shape, generator=self.rng, dtype=x.dtype, device=x.device)
        return (x + 0.6 * share * (x[order] - x) + 0.3 * size * noise).clamp(0, 1)

    def _random(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self.rng, dtype=like.dtype, device=like.device)


def imitate(model: Model, x: Tensor, rng: torch.Generator) -> tuple[nn.Module, Lesson] | None:
    """Train a small network on a model's answers around some images.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W); images with sides of less than 4 pixels give None.
        rng: draws weights and altered images.

    Returns: the network, and the lesson to go on with.

    Source: Papernot et al. 2017 (substitute models); answers softened, images mixed, our choice.
    """
    if min(x.shape[2:]) < 4:
        return None
    lesson = Lesson(model, x, rng)
    seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
    weights = torch.Generator().manual_seed(seed)
    channels, height, width = x.shape[1:]
    net = small_cnn((channels, height, width), lesson.answers.shape[1], weights).to(x)
    lesson.teach(net, 12)
    return net, lesson
