"""The gradient of a score with respect to the images alone, and the care a model is run with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from mpkit.attacks.losses import Loss
from mpkit.core.checks import ordinary, readable, require_images, require_labels, told
from mpkit.core.memory import ran_out
from mpkit.models.anatomy import behind

NO_GRADIENT = (
    "model: gives no gradient for its images, as if it ran under no_grad or outside of torch; "
    "take attacks that need none, such as Square or the budget 'blind', and masking.diagnose"
)

Model = Callable[[Tensor], Tensor]
"""Anything that turns images (B, C, H, W) into logits (B, K); usually an nn.Module."""


class Ascent(NamedTuple):
    """A point seen by an attack: logits (B, K), scores (B,) and their gradient in the images."""

    logits: Tensor
    score: Tensor
    gradient: Tensor


@contextmanager
def evaluating(model: Model) -> Iterator[list[nn.Module]]:
    """Put a model in eval mode, and give every submodule its own mode back, even after an error.

    Gives the networks that are known to be in it.

    Of a callable that is no nn.Module the networks that it holds are taken, see ``networks``; any
    other that it calls is put in eval mode when it is called.
    """
    modes: dict[nn.Module, bool] = {}

    def quiet(root: nn.Module, *_: object) -> None:
        modules = [module for module in root.modules() if hasattr(module, "training")]
        if any(module.training for module in modules):
            for module in modules:
                modes.setdefault(module, module.training)
            root.eval()

    roots, hiding = behind(model)
    for root in roots:
        quiet(root)
    watch = register_module_forward_pre_hook(quiet) if hiding else None
    try:
        yield roots
    finally:
        if watch is not None:
            watch.remove()
        for module, mode in modes.items():
            if module.training != mode:
                module.training = mode


@contextmanager
def attacking(model: Model) -> Iterator[None]:
    """Put a model in eval mode like ``evaluating``; its weights ask for no gradient meanwhile.

    A search differentiates in the images alone. As long as weights ask for gradients too, every
    layer keeps what theirs would need, which costs memory and time and is never used.
    """
    with evaluating(model) as roots:
        weights = [weight for root in roots for weight in root.parameters()]
        asking = [w for w in weights if w.requires_grad and w.is_leaf and not w.is_inference()]
        try:
            for weight in asking:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in asking:
                weight.requires_grad_(True)


@dataclass
class Guarded:
    """A model whose logits are checked at every call, without waiting for the device.

    Its first call gets a copy of the images. If the model writes into it, every later call gets
    one too: no caller's image is ever changed, and a model that writes nowhere costs nothing more.

    ``classes`` is the fewest that the labels and the loss need.
    """

    model: Model
    classes: int = field(compare=False)
    writes: bool | None = field(default=None, compare=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K) in the precision of x, whatever precision the model works in.

        Raises: ValueError: if the model returns anything but (B, K) logits with K large enough.
        """
        logits = self._asked(x)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"model: must return logits of shape ({len(x)}, classes), got {got}; "
                "end the network in one flat layer of class scores, or wrap it in models.Logits"
            )
        if logits.is_complex():
            raise ValueError("model: gives complex numbers; logits are real, take their size")
        if logits.shape[1] < self.classes:
            raise ValueError(
                f"model: labels and loss need at least {self.classes} classes, the model gives "
                f"{logits.shape[1]}; check the labels, or take a loss for fewer classes"
                + "; one logit an image becomes two in models.Logits"
                * (logits.shape[1] == 1)
            )
        return logits.to(x.dtype)

    def _asked(self, x: Tensor) -> Tensor:
        if self.writes is False:
            return self.model(x)
        own = x.clone()
        version = own._version
        try:
            logits = self.model(own)
        except Exception as error:
            known = str(error).startswith(("model:", "Logits:")) or "numpy()" in str(error)
            if self.writes is not None or ran_out(error) or known:
                raise
            if not isinstance(error, RuntimeError):
                raise ValueError(f"model: its forward raised {told(error)}") from error
            raise ValueError(
                f"model: cannot take images {tuple(x.shape)}, {x.dtype} on {x.device} "
                f"({str(error).splitlines()[0]}); {_remedy(str(error))}"
            ) from error
        if self.writes is None:
            self.writes = own._version != version or not (x.is_cuda or torch.equal(own, x))
        return logits


def _remedy(error: str) -> str:
    """What helps against what torch complains of."""
    if "nference" in error:
        return "build it outside of torch.inference_mode, or take copy.deepcopy of it there"
    if "channels" in error:
        return "give images with as many channels as its first layer takes, or a network for these"
    if "type" in error:
        return "wrap it so that it converts its input and output, as models.LowPrecision does"
    if "device" in error:
        return "move both to one device"
    return "give the network that these images are made for"


def writes(model: Model, x: Tensor) -> bool:
    """Whether a model, in its present mode, changes the images that it is given."""
    guarded = Guarded(model, 1)
    with torch.no_grad():
        guarded(x)
    return bool(guarded.writes)


def guard(model: Model, classes: int, y: Tensor) -> Guarded:
    """Wrap a model, which must give logits of so many classes, and of every label in y (B,)."""
    return Guarded(model, max(classes, int(y.max()) + 1) if readable(y) else classes)


@torch.inference_mode(False)
def input_gradient(model: Model, loss: Loss, x: Tensor, y: Tensor) -> Ascent:
    """Score images and differentiate the scores with respect to the images only.

    The model runs in eval mode and gets its mode back. Whatever its weights say about
    requires_grad, nothing is left in their .grad, and gradients flow even under torch.no_grad.

    Args:
        model: images to logits (B, K).
        loss: what is differentiated, one number per example.
        x: (B, C, H, W).
        y: (B,) int64.

    Returns: logits (B, K), scores (B,), gradient (B, C, H, W), all detached.

    Raises: ValueError: if the model returns anything but (B, K) logits.
    """
    x, y = ordinary(x), ordinary(y)
    require_images(x)
    require_labels(y, x)
    with attacking(model):
        return climb(guard(model, loss.classes, y), loss, x, y)


def climb(model: Model, loss: Loss, x: Tensor, y: Tensor) -> Ascent:
    """What input_gradient does, for a model in eval mode that is guarded: the step of an attack."""
    logits, score, (gradient,) = climb_through(model, loss, lambda image: image, (x,), y)
    return Ascent(logits, score, gradient)


def climb_through(
    model: Model,
    loss: Loss,
    render: Callable[..., Tensor],
    variables: tuple[Tensor, ...],
    y: Tensor,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Differentiate the scores of a rendered image in the variables it is rendered from.

    Args:
        model: guarded, in eval mode.
        render: called with the variables, gives images (B, C, H, W).
        variables: tensors of B rows each.

    Returns: logits (B, K), scores (B,) and their gradients in the variables, all detached.
    """
    with torch.enable_grad():
        leaves = [variable.detach().requires_grad_(True) for variable in variables]
        try:
            logits = model(render(*leaves))
        except RuntimeError as error:
            if "numpy()" in str(error):
                raise ValueError(NO_GRADIENT) from error
            if "nference" in str(error):
                raise ValueError(f"model: {error}; {_remedy(str(error))}") from error
            raise
        score = loss(logits, y)
        if not score.requires_grad:
            raise ValueError(NO_GRADIENT)
        gradients = torch.autograd.grad(score.sum(), leaves)
    return logits.detach(), score.detach(), gradients


def look(model: Model, loss: Loss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and scores (B,) of images (B, C, H, W), without a gradient."""
    with torch.no_grad():
        logits = model(x)
        return logits, loss(logits, y)
