"""Where a gradient may pass in a model: around modules and operations, or read inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from mpkit.attacks import Margin
from mpkit.attacks.gradients import Model, climb, evaluating, guard
from mpkit.masking.bpda import AS_IF, BPDA, find_bpda, title, watch
from mpkit.masking.operations import ENDS, FALSE, SHARP, Step, StraightThrough, Trace
from mpkit.masking.wrappers import LARGE, Connected, Sanitized, Tamed


class Detour(NamedTuple):
    """Another way for the gradient, and what it goes round.

    Args:
        kind: a key of ``NAMES``, and of the causes.
        places: what is led around, in words with class and call.
        guide: images to logits (B, K); its gradient passes.
        exact: its values are those of the model, which may therefore be attacked through it.
    """

    kind: str
    places: tuple[str, ...]
    guide: nn.Module
    exact: bool = False

    @property
    def name(self) -> str:
        """What it is, in words."""
        return f"{NAMES[self.kind]}, {'; '.join(self.places[:3])}"

    @property
    def before(self) -> str:
        """Where it goes round all that comes before an inner network; else empty."""
        network = self.places[0].removesuffix(AS_IF)
        return f"what comes before {network}" if network != self.places[0] else ""


NAMES = {
    "inner": "a detour for gradients (BPDA)",
    "liar": "a detour for gradients (BPDA)",
    "loop": "an inner network by itself",
    "step": "a detour around operations (BPDA)",
    "cut": "a gradient in spite of cuts",
    "nan": "a gradient without its infinite parts",
    "table": "inner scores for logits",
    "readout": "a read-out of inner outputs",
}


def find_detours(model: Model, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Detour, ...]:
    """All detours that a model calls for; those that fail are left out.

    Args:
        model: any model; of one that is no nn.Module operations can be watched, modules cannot.
        x: (B, C, H, W) in [0, 1], at least two images that the model gets right.
        y: (B,) their labels.
        rng: draws test directions.
    """
    found = list[Detour]()
    for seek in (_around_modules, _around_operations, _melted, _around_infinity, _read_inside):
        try:
            with evaluating(model):
                found += seek(model, x, y, rng)
        except Exception:  # a model may do anything when it is watched; then there is no detour
            continue
    return tuple(found)


def _around_modules(model: Model, x: Tensor, y: Tensor, rng: torch.Generator) -> Iterator[Detour]:
    """The detour by modules; and where the inner network is called in a loop, its first call."""
    bpda = find_bpda(model, x, rng)
    if bpda is None:
        return
    yield Detour("liar" if len(bpda.around) else "inner", bpda.found, bpda)
    if bpda.core is None:
        return
    assert isinstance(model, nn.Module)
    with torch.no_grad():
        calls = [c for c in watch(model, x)[0] if c.module is bpda.core]
    if len(calls) > 1:
        place = (f"{title(calls[0])}, called {len(calls)} times in one pass",)
        yield Detour("loop", place, BPDA(model, bpda.core, None, (), place, 0))
        yield Detour("loop", place, Converted(bpda.core, calls[0].given.dtype))


def _around_operations(model: Model, x: Tensor, y: Tensor, _: torch.Generator) -> Iterator[Detour]:
    """Operations without a slope, and cuts in the graph."""
    steps = traced(model, x, True).steps
    false = bool(steps) and all(step.name.startswith(FALSE) for step in steps)
    flat = all(step.name.startswith((FALSE, ENDS)) for step in steps)
    for width in WIDTHS[: 1 if flat else None] if steps else ():
        guide = Detoured(model, width=width)
        if _climbs(guide, x, y):
            yield Detour("liar" if false else "step", _few(steps), guide, exact=True)
    cut = [step for step in traced(model, x, False).steps if step.name in CUTS]
    guide = Detoured(model, cuts=False)
    if cut and _climbs(guide, x, y):
        hooked = all(step.name == CUTS[0] for step in cut)
        yield Detour("liar" if hooked else "cut", _few(cut), guide, exact=True)


def _melted(model: Model, x: Tensor, y: Tensor, _: torch.Generator) -> Iterator[Detour]:
    """Softened copies that still name the classes of half of the images, to follow."""
    steps = [s for s in traced(model, x, True).steps if not s.name.startswith((FALSE, ENDS))]
    steep = any(step.name.startswith(SHARP) for step in steps)
    for melt in MELTS[: None if steep else 1] if steps else ():
        guide = Detoured(model, melt=melt)
        if bool((guide(x).argmax(1) == y).double().mean() >= 0.5) and _climbs(guide, x, y):
            yield Detour("step", _few(steps), guide)


def _around_infinity(model: Model, x: Tensor, y: Tensor, _: torch.Generator) -> Iterator[Detour]:
    """Slopes that are not finite, left out where they arise."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(Margin()(model(leaf * 1), y).sum(), leaf)
    guide = Tamed(model)
    if not bool(slope.isfinite().all()) and _climbs(guide, x, y):
        yield Detour("nan", ("a slope that is not finite",), guide, exact=True)


CUTS = "a hook", "detach", "no_grad"  # where a gradient ends or is replaced


def _read_inside(model: Model, x: Tensor, y: Tensor, _: torch.Generator) -> Iterator[Detour]:
    """Scores on the way that name the same classes, or distances, or outputs of another width."""
    with torch.no_grad():
        logits = model(x).to(x.dtype)
    tables, says = traced(model, x, True).scores, logits.argmax(1)
    least = int(says.max()) + 1
    for number, table in enumerate(tables):
        if table.shape[1] < least or _alike(table, logits):
            continue
        signs = (1, table.argmax(1)), (-1, table.argmin(1))
        agree = [sign for sign, named in signs if bool((named == says).double().mean() >= 0.9)]
        if not agree:
            continue
        guide = Detoured(model, read=number, sign=agree[0], classes=logits.shape[1])
        if _climbs(guide, x, y):
            kind = "scores" if agree[0] == 1 else "distances"
            yield Detour("table", (f"{kind} {tuple(table.shape[1:])} inside",), guide)
            break
    wide = [i for i, t in enumerate(tables) if not _alike(t, logits) and t.shape[1] >= 4]
    for number in wide[-1:]:
        fitted = ReadOut(Detoured(model, read=number), x, says, logits.shape[1])
        if _climbs(fitted, x, y):
            place = f"inner outputs {tuple(tables[number].shape[1:])}"
            yield Detour("readout", (place,), fitted)


WIDTHS, MELTS = (1.0, 0.25), (1.25, 2.5, 5.0)
"""Of slopes for signs and comparisons, in deviations of their input; how gentle what melts is."""


def _alike(table: Tensor, logits: Tensor) -> bool:
    """Whether a table is the logits but for a scale and a shift of each row."""
    if table.shape != logits.shape:
        return False
    a, b = (t.double() - t.double().mean(1, keepdim=True) for t in (table, logits))
    return bool((torch.cosine_similarity(a, b) > 1 - 1e-6).all())


def _few(steps: list[Step]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, steps)))


def _climbs(guide: Model, x: Tensor, y: Tensor) -> bool:
    """Whether a model has a finite gradient of the margin that is not zero on half of the rows."""
    slope = climb(guard(Sanitized(guide), 2, y), Margin(), x, y).gradient.flatten(1)
    return bool((slope != 0).any(1).double().mean() > 0.5)


class Converted(nn.Module):
    """A network of another precision, fed with images in its own."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) in the precision of x (B, C, H, W)."""
        logits: Tensor = self.network(x.to(self.dtype))
        return logits.to(x.dtype)


class ReadOut(nn.Module):
    """Class scores fitted to inner outputs (B, M): linear, by ridge regression.

    Args:
        inner: images to (B, M).
        x: (B, C, H, W) to fit on.
        says: (B,) the classes that the model names for them.
        classes: K of the model.
    """

    def __init__(self, inner: nn.Module, x: Tensor, says: Tensor, classes: int) -> None:
        super().__init__()
        self.inner = inner
        with torch.no_grad():
            seen = inner(x).double()
            self.middle, self.scale = seen.mean(0), seen.std(0) + 1e-12
            h = (seen - self.middle) / self.scale
            wanted = nn.functional.one_hot(says, classes).double()
            eye = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
            self.weight = torch.linalg.solve(h.T @ h + 0.1 * len(x) * eye, h.T @ wanted)
            self.bias = wanted.mean(0)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, K)."""
        h = (self.inner(x) - self.middle.to(x)) / self.scale.to(x)
        scores: Tensor = h @ self.weight.to(x) + self.bias.to(x)
        return scores


class Detoured(nn.Module):
    """The same model, run under ``StraightThrough``; its values stay, its gradients pass.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        sign: 1, or -1 for a table of distances.
        classes: of the model; a narrower table is filled up.
        options: width, melt, cuts and read of ``StraightThrough``; the table of scores that is read
            is taken for the logits.
    """

    def __init__(self, model: Model, sign: int = 1, classes: int = 0, **options: Any) -> None:
        super().__init__()
        self.model, self.sign, self.classes, self.options = model, sign, classes, options

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K), or the table of scores in their place."""
        if self.options.get("melt") and not (torch.is_grad_enabled() and x.requires_grad):
            with torch.enable_grad():
                return self(x.detach().requires_grad_(True)).detach()  # type: ignore[no-any-return]
        mode = StraightThrough(len(x), **self.options)
        with mode:
            logits: Tensor = self.model(x)
        if mode.seen is None:
            return logits
        seen = self.sign * mode.seen
        return nn.functional.pad(seen, (0, max(0, self.classes - seen.shape[1])), value=-LARGE)


@contextmanager
def _placed(model: Model, mode: StraightThrough) -> Iterator[None]:
    """Tell the mode which module is running."""
    names = {m: n for n, m in model.named_modules()} if isinstance(model, nn.Module) else {}
    calls: dict[nn.Module, int] = {}

    def enter(module: nn.Module, *_: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        title = f"{type(module).__name__} {names.get(module, '')!r}".removesuffix(" ''")
        mode.inside.append((title, calls[module]) if module in names else mode.inside[-1])

    def leave(module: nn.Module, *_: Any) -> None:
        mode.inside.pop()

    with ExitStack() as stack:
        stack.callback(register_module_forward_pre_hook(enter).remove)
        stack.callback(register_module_forward_hook(leave, always_call=True).remove)
        yield


def traced(model: Model, x: Tensor, cuts: bool) -> Trace:
    """Run a model once on images (B, C, H, W) and write down what had to be led around."""
    trace = Trace()
    mode = StraightThrough(len(x), cuts=cuts, trace=trace)
    with torch.enable_grad(), _placed(model, mode), mode:
        Connected(model)(x.detach().clone().requires_grad_(True) * 1)
    trace.scores = [scores.detach() for scores in trace.scores]
    return trace


def positive(model: Model, x: Tensor) -> bool:
    """Whether no output is negative and they differ: probabilities, exponentials, counts."""
    with evaluating(model), torch.no_grad():
        out = torch.cat([model(x), model(1 - x)])
    return bool((out >= 0).all()) and out.is_floating_point()


def chance_in(model: Model, x: Tensor) -> str:
    """The first module that gives two answers to one input, in words; empty if unknown."""
    if not isinstance(model, nn.Module):
        return ""
    with evaluating(model), torch.no_grad():
        first, again = (watch(model, x)[0] for _ in "ab")
    for a, b in zip(first, again, strict=False):
        same = a.module is b.module and a.given.shape == b.given.shape
        if same and a.given.equal(b.given) and not a.result.equal(b.result):
            return title(a)
    return ""
