"""One training loop, decided by its arguments alone: same generator, same weights."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from mpkit.attacks.gradients import evaluating
from mpkit.core.cuda_graphs import Recorder
from mpkit.core.progress import OutOfTime, Quiet
from mpkit.data import Images
from mpkit.models.anatomy import leaves
from mpkit.training import data_parallel
from mpkit.training.checkpoints import Checkpoints
from mpkit.training.recipes import Recipe, fingerprint
from mpkit.training.run import Run
from mpkit.training.schemes import Scheme
from mpkit.training.validation import Validation


@dataclass(frozen=True)
class Epoch:
    """What one pass over the data gave.

    Args:
        epoch: counted from 1.
        loss: mean over the epoch of the scheme's losses.
        lr: learning rate of its last step.
        robust: accuracies of the validation after it, by name; empty where none was due.
        seconds: wall-clock time; not part of what makes two records equal.
    """

    epoch: int
    loss: float
    lr: float
    robust: dict[str, float] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)


@torch.inference_mode(False)
@torch.enable_grad()
def fit(
    model: nn.Module,
    images: Images,
    scheme: Scheme,
    recipe: Recipe,
    rng: torch.Generator,
    progress: Quiet | None = None,
    validation: Validation | None = None,
    checkpoints: Checkpoints | None = None,
    recorder: Recorder | None = None,
) -> list[Epoch]:
    """Train a network in place.

    The order of the images and the random numbers of every step follow from one number drawn
    from ``rng`` and from the position in the run, never from what happened before: on a CPU the
    same arguments give the same weights to the last bit, with or without an interruption.

    Args:
        model: stays where it is; the images follow it to its device and floating point type.
        images: what is trained on.
        scheme: how a batch becomes losses.
        recipe: how losses become weights.
        rng: one number is drawn from it.
        progress: is told how far the run is; None for silence.
        validation: what is measured on the way; None for nothing.
        checkpoints: where states are kept. A run that was interrupted goes on from the newest
            sound one if it is called again with the same arguments. None for nowhere.
        recorder: how the steps are recorded; None for CUDA graphs on a GPU, with a message and
            plain steps where that fails, and for plain steps elsewhere.

    Returns: one record per epoch. The network is left in eval mode.

    Raises:
        Diverged: a loss is not finite; the last checkpoint is from before.
        KeyboardInterrupt: where there are checkpoints, after the steps at hand, which are kept.
        OSError: a checkpoint could not be written; earlier ones are kept.
        ValueError: the network's outputs do not fit the number of classes, or the checkpoints
            are those of another run.
    """
    if not isinstance(images, Images):
        raise ValueError(
            f"fit: images must be mpkit.data.Images, got a {type(images).__name__}; write "
            "Images(x, y, classes, name), x (N, C, H, W) in [0, 1]"
        )
    _check_outputs(model, images)
    drawn = torch.randint(2**62, (), generator=rng, device=rng.device, dtype=torch.int64)
    seed = data_parallel.agree(model, int(drawn))
    parts = _identity(model, images, scheme, recipe, seed, validation) if checkpoints else {}
    job = _Job(Run(model, images, scheme, recipe, seed, recorder), validation, checkpoints, parts)
    job.resume()
    progress = progress or Quiet()
    progress.start(recipe.epochs * job.run.steps, job.run.done)
    try:
        with _patient() if checkpoints else nullcontext() as job.asked:
            while len(job.history) < recipe.epochs:
                job.epoch(progress)
    finally:
        progress.close()
    job.run.swap()
    model.eval()
    return job.history


@dataclass
class _Job:
    """A run together with what is measured and kept on the way."""

    run: Run
    validation: Validation | None
    checkpoints: Checkpoints | None
    parts: dict[str, str]
    history: list[Epoch] = field(default_factory=list)
    saved_at: float = field(default_factory=time.monotonic)
    asked: threading.Event | None = None

    def resume(self) -> None:
        """Go on from the newest sound checkpoint, if there is one."""
        if not self.checkpoints or not (saved := self.checkpoints.latest()):
            return
        kept = saved.facts["parts"]
        if differing := [name for name in self.parts if self.parts[name] != kept.get(name)]:
            raise ValueError(
                f"fit: {self.checkpoints.folder} holds another run: {', '.join(differing)} "
                "differ(s); give this run a folder of its own, or remove that one"
            )
        self.history = [Epoch(**line) for line in saved.facts["history"]]
        self.run.restore(saved.tensors, saved.facts["done"])

    def epoch(self, progress: Quiet) -> None:
        """Finish the epoch that has begun: its steps, validation, metrics, checkpoints."""
        began, number = time.perf_counter(), len(self.history)
        robust = next((e.robust for e in reversed(self.history) if e.robust), {})
        while self.run.done < (number + 1) * self.run.steps:
            steps = self.run.stretch(robust)
            loss = self.run.losses[(self.run.done - 1) % self.run.steps].item()
            try:
                progress.advance(steps, f"loss {loss:.3f}")
            except OutOfTime:
                self.save()
                raise
            if self.asked and self.asked.is_set():
                self.save()
                raise KeyboardInterrupt(
                    f"saved: the same command goes on from step {self.run.done:,}"
                )
            if self.checkpoints and time.monotonic() - self.saved_at >= self.checkpoints.seconds:
                self.save()
        loss = self.run.losses.mean().item()
        robust = self.measure(number)
        rate, seconds = self.run.rate(self.run.done - 1), time.perf_counter() - began
        self.history.append(Epoch(number + 1, loss, rate, robust, seconds))
        if self.checkpoints and data_parallel.rank() == 0:
            self.checkpoints.write_metrics([asdict(line) for line in self.history])
        if self.is_last(number):
            self.save()

    def is_last(self, number: int) -> bool:
        return number + 1 == self.run.recipe.epochs

    def measure(self, number: int) -> dict[str, float]:
        """The validation's accuracies of the averaged weights, where it is due."""
        watch = self.validation
        if not watch or ((number + 1) % watch.every and not self.is_last(number)):
            return {}
        self.run.swap()
        robust = watch.measure(self.run.network, self.run.seed, number)
        self.run.swap()
        return robust

    def save(self) -> None:
        """Keep the state, in the first of several processes."""
        if self.checkpoints and data_parallel.rank() == 0:
            history = [asdict(line) for line in self.history]
            facts = {"done": self.run.done, "history": history, "parts": self.parts}
            self.checkpoints.save(self.run.done, self.run.tensors(), facts)
            self.saved_at = time.monotonic()


@contextmanager
def _patient() -> Iterator[threading.Event]:
    """An event for the first interrupt, so that steps end and are kept; a second one is obeyed."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _identity(
    model: nn.Module,
    images: Images,
    scheme: Scheme,
    recipe: Recipe,
    seed: int,
    validation: Validation | None,
) -> dict[str, str]:
    """What makes a run this one and no other, part by part, so that an error can name the part."""
    return {
        "network": fingerprint(str(model), model.state_dict(), sorted(leaves(model).items())),
        "images": fingerprint(images.x, images.y),
        "scheme": fingerprint(scheme),
        "recipe": fingerprint(recipe),
        "seed": fingerprint(seed),
        "validation": fingerprint(validation),
    }


@torch.no_grad()
def _check_outputs(model: nn.Module, images: Images) -> None:
    weight = next(model.parameters())
    with evaluating(model):
        outputs = model(images.x[:1].to(weight.device, weight.dtype, copy=True))
    if outputs.dim() != 2:
        raise ValueError(
            f"fit: the network must return (B, classes), got {tuple(outputs.shape)} for one image; "
            "end it in one flat layer of class scores"
        )
    if outputs.shape[1] != len(images.classes):
        raise ValueError(
            f"fit: the network has {outputs.shape[1]} outputs, but {images.name} has "
            f"{len(images.classes)} classes; build it with classes={len(images.classes)}"
        )
