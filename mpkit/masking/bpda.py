"""A detour for gradients around what hides them, found by watching a network at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any

import torch
from torch import Tensor, nn

from mpkit.attacks.gradients import Model, evaluating

AS_IF = " as if it saw the image itself"


@dataclass
class Call:
    """One call of a module, by its name in the network: input (B, ...) and output (B, ...)."""

    module: nn.Module
    name: str
    given: Tensor
    result: Tensor


class BPDA(nn.Module):
    """The same network with another backward pass: what hides the gradient counts as the identity.

    Three detours, each used where it applies:

    - *front:* the inner network that takes an image is fed what it was fed in the real forward
      pass, but differentiated as if that were the image itself;
    - *back:* the logits are read where they are first computed, before anything rescales them;
    - *inside:* modules without weights that keep the shape of their input, and whose gradient
      disagrees with what they do, are passed as if they were the identity.

    Args:
        model: the whole network.
        core: the inner network that takes an image, or None.
        source: the module whose output is taken for the logits, or None.
        around: modules to be passed as the identity.
        found: what was found, in words.
        call: which call of the inner network is followed: -1 the last, 0 the first.

    Source: Athalye, Carlini and Wagner 2018 (backward pass differentiable approximation).
    """

    def __init__(
        self,
        model: nn.Module,
        core: nn.Module | None,
        source: nn.Module | None,
        around: tuple[nn.Module, ...],
        found: tuple[str, ...],
        call: int = -1,
    ) -> None:
        super().__init__()
        self.model, self.core, self.source, self.call = model, core, source, call
        self.around, self.found = nn.ModuleList(around), found

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K), of the inner network where there is one."""
        run, image = self.model, x
        if self.core is not None:
            fed: list[Tensor] = []

            def remember(module: nn.Module, inputs: Any) -> None:
                fed.append(inputs[0].detach())

            with torch.no_grad(), self.core.register_forward_pre_hook(remember):
                self.model(x.detach())
            given = fed[self.call] if fed else x
            run, image = self.core, (x + (given.to(x.dtype) - x).detach()).to(given.dtype)
        return self._logits(run, image).to(x.dtype)

    def _logits(self, run: nn.Module, image: Tensor) -> Tensor:
        seen: list[Tensor] = []
        with ExitStack() as stack:
            for module in self.around:
                stack.enter_context(module.register_forward_hook(_straight))
            if self.source is not None:
                keep = self.source.register_forward_hook(lambda *call: seen.append(call[2]))
                stack.enter_context(keep)
            logits: Tensor = run(image)
        return seen[-1] if seen else logits


def find_bpda(model: Model, x: Tensor, rng: torch.Generator) -> BPDA | None:
    """Watch one forward pass and find what may be led around; None where there is nothing.

    Args:
        model: any model; only an nn.Module can be watched.
        x: (B, C, H, W) in [0, 1], at least two images.
        rng: draws test directions.
    """
    if not isinstance(model, nn.Module):
        return None
    with evaluating(model), torch.no_grad():
        calls, logits = watch(model, x)
        inner = [c for c in calls if c.module is not model and c.result.shape == logits.shape]
        cores = [c for c in inner if c.given.shape == x.shape]
        core = min(cores, key=lambda c: len(list(c.module.modules())), default=None)
        agree = [c for c in inner if _agree(c.result, logits) and not c.result.equal(logits)]
        around = [c for c in calls if _keeps_shape(c) and _lies(c.module, c.given, rng)]
    source = agree[0] if agree else None
    found = [title(core) + AS_IF] if core else []
    found += [f"logits read behind {title(source)}"] if source else []
    found += [f"{title(c)} passed as the identity" for c in around]
    if not found:
        return None
    return BPDA(
        model,
        core.module if core else None,
        source.module if source else None,
        tuple({id(c.module): c.module for c in around}.values()),
        tuple(dict.fromkeys(found)),
    )


def watch(model: nn.Module, x: Tensor) -> tuple[list[Call], Tensor]:
    """All calls of one forward pass in the order of their ends, and the logits."""
    calls: list[Call] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, result: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(result, Tensor):
                calls.append(Call(module, name, inputs[0].detach(), result.detach()))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.enter_context(module.register_forward_hook(note(name)))
        logits = model(x)
    return [*calls], logits  # copies of a module keep the hooks, and would add to the list


def _keeps_shape(call: Call) -> bool:
    """Whether a module without weights and parts turns a tensor into one of the same shape."""
    holds = [*call.module.children(), *call.module.parameters()]
    return not holds and call.given.shape == call.result.shape


def _lies(run: Callable[[Tensor], Tensor], u: Tensor, rng: torch.Generator) -> bool:
    """Whether the gradient of a step does not say how its output changes when its input moves.

    A move of a tenth of the input's spread is compared with what the gradient promises for it.
    """
    if not u.is_floating_point() or u.dim() < 2:
        return False
    way, weight = torch.randn((2, *u.shape), generator=rng, dtype=u.dtype, device=u.device)
    step = 0.1 * u.std() * way
    with torch.no_grad():
        change = (weight * (run(u + step) - run(u - step)) / 2).flatten(1).sum(1)
    with torch.enable_grad():
        leaf = u.clone().requires_grad_(True)
        try:
            (gradient,) = torch.autograd.grad((weight * run(leaf)).sum(), leaf)
        except RuntimeError:
            gradient = torch.zeros_like(u)
    promised = (gradient * step).flatten(1).sum(1)
    cosine = torch.cosine_similarity(promised, change, dim=0)
    return bool((change != 0).any()) and not bool(cosine > 0.5)


@contextmanager
def mended(note: Callable[[str], object]) -> Iterator[None]:
    """Give a gradient to custom functions of autograd whose backward pass lies, while this is on.

    Where every output hangs on its own input alone, that is the slope by finite differences, over
    a tenth of the input's spread either way; else the identity. Functions of several inputs with
    a gradient, and those that change the shape, stay as they are.

    Args:
        note: is told the name of every such function that runs.
    """
    function: Any = torch.autograd.Function
    real, lying = getattr_static(function, "apply"), dict[type, bool]()

    def apply(cls: type, *args: Any, **options: Any) -> Any:
        result = real.__get__(None, cls)(*args, **options)
        at = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        if len(at) != 1 or not torch.is_grad_enabled() or cls.__module__.startswith("mpkit."):
            return result
        u = args[at[0]]
        if not isinstance(result, Tensor) or result.shape != u.shape or u.numel() < 2:
            return result

        def run(v: Tensor) -> Tensor:
            out: Tensor = real.__get__(None, cls)(*args[: at[0]], v, *args[at[0] + 1 :], **options)
            return out

        with torch._C.DisableTorchFunction():  # a mode is not to see what is tried here
            known, told = u.detach(), result.detach()
            rng = torch.Generator(known.device).manual_seed(0)
            if cls not in lying:
                lying[cls] = _lies(run, known, rng)
            if not lying[cls]:
                return result
            with torch.no_grad():
                step = 0.1 * known.std().clamp(min=1e-12)
                half = torch.rand(known.shape, generator=rng, device=known.device) < 0.5
                alone = torch.where(half, told, run(known + step * half)).equal(told)
                slope = (run(known + step) - run(known - step)) / (2 * step) if alone else 1.0
            result = told + slope * (u - known)
        note(cls.__name__)
        return result

    function.apply = classmethod(apply)
    try:
        yield
    finally:
        function.apply = real


def _straight(module: nn.Module, inputs: Any, result: Tensor) -> Tensor:
    """Forward what the module says, backward the identity."""
    given: Tensor = inputs[0]
    return given + (result - given).detach()


def _agree(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors (B, K) name the same class on nine of ten rows."""
    return bool((a.argmax(1) == b.argmax(1)).double().mean() >= 0.9)


def title(call: Call) -> str:
    """The class and the name of a module."""
    return f"{type(call.module).__name__} {call.name!r}".removesuffix(" ''")
