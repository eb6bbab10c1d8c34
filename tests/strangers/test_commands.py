"""Bad input to every command: a few lines that name it and the remedy, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from helpers.toybook import toy_book
from mpkit.cli.main import main
from mpkit.evaluation import Ledger
from mpkit.evaluation.resume import DONE

NETS = """
import torch
from torch import nn
def net(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
def colour():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(99, 10))
def maps():
    return nn.Conv2d(1, 10, 8)
def few():
    return net(3)
def silent():
    model = net()
    class Silent(nn.Module):
        def forward(self, x):
            return torch.from_numpy(model(x.detach()).detach().numpy())
    return Silent()
def one():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
def raises():
    raise RuntimeError("no weights here")
def strange():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10).double(), nn.Linear(10, 10))
class Odd(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error
    def forward(self, x):
        raise self.error
def asserts():
    return Odd(AssertionError("Input size does not match"))
def misses():
    return Odd(KeyError("head"))
def exits():
    return Odd(SystemExit(0))
def exiting_data():
    raise SystemExit(0)
thing = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy book and everything that can be wrong."""
    root = toy_book(tmp_path_factory.mktemp("strange"), "print(radius)")
    (root / "cli_nets.py").write_text(NETS, encoding="utf-8")
    (root / "cli_broken.py").write_text("def net(:\n", encoding="utf-8")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    save_file(flat.state_dict(), root / "flat.safetensors")
    save_file({k: v[:4] for k, v in flat.state_dict().items()}, root / "short.safetensors")
    torch.save(flat.state_dict(), root / "pickle.pth")
    (root / "junk.safetensors").write_bytes(b"junk")
    (root / "file").write_text("a file", encoding="utf-8")
    (root / "slurm.yml").write_text("- 1\n", encoding="utf-8")
    profiles = root / "book" / "profiles"
    (profiles / "broken.yml").write_text("chapters: {toy: [\n", encoding="utf-8")
    (profiles / "list.yml").write_text("- toy\n", encoding="utf-8")
    (profiles / "word.yml").write_text("chapter: {toy: {seed: 1}}\n", encoding="utf-8")
    (profiles / "who.yml").write_text("chapters: {absent: {seed: 1}}\n", encoding="utf-8")
    (profiles / "what.yml").write_text("chapters: {toy: {sead: 1}}\n", encoding="utf-8")
    (profiles / "every.yml").write_text("every: {sead: 1}\n", encoding="utf-8")
    (profiles / "flat.yml").write_text("chapters: {toy: 3}\n", encoding="utf-8")
    np.savez(root / "x.npz", x=np.zeros((3, 1, 8, 8), np.float32))
    for label in ("a", "b"):
        for number in range(3):
            (root / "odd" / label).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8 + number)).save(root / "odd" / label / f"{number}.png")
    (root / "one" / "a").mkdir(parents=True)
    (root / "lost").symlink_to("nowhere")
    return root


NET, WEIGHTS = ("--model", "cli_nets:net"), ("--weights", "flat.safetensors")
EVALUATE = ("evaluate", "--points", "10", "--budget", "quick", "--output", "out")
DOCTOR = ("doctor", "--points", "12")
BAD: list[tuple[tuple[str, ...], str]] = [
    (("chapter",), "No such command"),
    (("run",), "Missing argument"),
    (("run", "absent"), "the chapters are: toy"),
    (("run", "toy", "-p", "sead", "1"), "no parameter 'sead'; it has dataset"),
    (("run", "toy", "-p", "seed", "x"), "got 'x', expected a finite int"),
    (("run", "toy", "-p", "seed", "-1"), "got '-1'"),
    (("run", "toy", "-p", "seed", "99999999999999999999999"), "got '99999999999999999999999'"),
    (("run", "toy", "-p", "radius", "nan"), "got 'nan', expected a finite float"),
    (("run", "toy", "-p", "radius", "0"), "(0, 1]"),
    (("run", "toy", "-p", "norm", "l3"), "{linf, l2}"),
    (("run", "toy", "-p", "seed", "1", "-p", "seed", "2"), "parameter given twice: seed"),
    (("run", "toy", "-p", "device", "tpu"), "use auto, cpu, cuda or cuda:1, got 'tpu'"),
    (("run", "toy", "--timeout", "nan"), "nan"),
    (("run", "toy", "--timeout", "0"), "--timeout"),
    (("run", "toy", "--output", "file"), "file"),
    (("run", "toy", "--output", "file/x"), "file/x"),
    (("run", "toy", "--output", "odd"), "did not make"),
    (("book", "--profile", "absent"), "the profiles are: broken"),
    (("book", "--profile", "broken"), "broken.yml"),
    (("book", "--profile", "list"), "list.yml"),
    (("book", "--profile", "word"), "word.yml: unknown key 'chapter'"),
    (("book", "--profile", "who"), "chapters that do not exist: ['absent']"),
    (("book", "--profile", "what"), "no parameter 'sead'"),
    (("book", "--profile", "every"), "every.yml: no chapter has a parameter 'sead'"),
    (("book", "--profile", "flat"), "flat.yml"),
    (("book", "--jobs", "0"), "--jobs"),
    (("refresh", "absent"), "the chapters are: toy"),
    (("handout", "absent"), "the chapters are: toy"),
    (("handout", "toy"), "no exercise in code"),
    (("sweep", "toy"), "nothing to sweep"),
    (("sweep", "toy", "--grid", "seed"), "is not name=value"),
    (("sweep", "toy", "--grid", "seed="), "nothing to sweep"),
    (("sweep", "toy", "--grid", "seed=1,1"), "has a value twice"),
    (("sweep", "toy", "--grid", "seed=1", "--grid", "seed=2"), "seed twice"),
    (("sweep", "toy", "--grid", "sead=1,2"), "no parameter 'sead'"),
    (("sweep", "toy", "--grid", "seed=1,x"), "got 'x'"),
    (("sweep", "toy", "--grid", "norm=l2\nx"), "values cannot be read"),
    (("run", "toy", "-p", "dataset", "cli_nets:net"), "write them to a file"),
    (("sweep", "toy", "--grid", "device=cpu,cuda"), "device cannot be swept"),
    (("sweep", "toy", "--grid", "seed=1,2", "-p", "seed=3"), "both give seed"),
    (("sweep", "toy", "--grid", "seed=1", "--slurm", "absent.yml"), "absent.yml"),
    (("sweep", "toy", "--grid", "seed=1", "--slurm", "slurm.yml"), "slurm.yml"),
    (("sweep", "toy", "--grid", "seed=1", "--scheduler", "10.0.0.1"), "is no address"),
    (("sweep", "toy", "--grid", "seed=1", "--timeout", "nan"), "nan"),
    (("data", "svhn"), "unknown data set 'svhn'"),
    (("data", "mnist", "--root", "one"), "one"),
    (("data", "folder:absent"), "absent: no such folder"),
    (("data", "folder:one"), "expected a folder for each of at least two classes"),
    (("data", "folder:odd"), "resize"),
    (("data", "x.npz"), "has no array y, only x"),
    (("data", "digits", "--download"), "only mnist and cifar10 can be downloaded"),
    ((*EVALUATE, "--model", "vgg"), "'vgg' is none of small_cnn"),
    ((*EVALUATE, "--model", "small_cnn"), "comes without weights"),
    ((*EVALUATE, "--model", "absent_nets:net"), "No module named 'absent_nets'"),
    ((*EVALUATE, "--model", "cli_broken:net"), "cli_broken.py, line 1"),
    ((*EVALUATE, "--model", "cli_nets:absent"), "has no attribute 'absent'"),
    ((*EVALUATE, "--model", "cli_nets:thing"), "is a int, not a function"),
    ((*EVALUATE, "--model", "cli_nets:raises"), "RuntimeError: no weights here"),
    ((*EVALUATE, "--model", "cli_nets:colour"), "as many channels"),
    ((*EVALUATE, "--model", "cli_nets:wide"), "cannot take images"),
    ((*EVALUATE, "--model", "cli_nets:maps"), "must return logits of shape"),
    ((*EVALUATE, "--model", "cli_nets:few"), "at least 10 classes, the model gives 3"),
    ((*EVALUATE, "--model", "cli_nets:one"), "models.Logits"),
    ((*EVALUATE, "--points", "90", "--model", "cli_nets:silent"), "'blind'"),
    ((*EVALUATE, "--model", "cli_nets:asserts"), "forward raised AssertionError: Input size"),
    ((*EVALUATE, "--model", "cli_nets:misses"), "forward raised KeyError: 'head'"),
    ((*EVALUATE, "--model", "cli_nets:exits"), "ended the process"),
    ((*EVALUATE, *NET, *WEIGHTS, "--data", "cli_nets:exiting_data"), "SystemExit"),
    ((*EVALUATE, *NET, *WEIGHTS, "--targeted", "11"), "is no target"),
    ((*EVALUATE, *NET, *WEIGHTS, "--save", "lost/x"), "lost is a link to nothing"),
    ((*EVALUATE, "--model", "cli_nets:few", "--targeted", "2"), "at least 10 classes"),
    ((*EVALUATE, *NET, "--weights", "absent.safetensors"), "absent.safetensors"),
    ((*EVALUATE, *NET, "--weights", "junk.safetensors"), "cannot be read as safetensors"),
    ((*EVALUATE, *NET, "--weights", "short.safetensors"), "short.safetensors: does not fit"),
    ((*EVALUATE, *NET, "--weights", "pickle.pth"), "pickle.pth: is a pickle"),
    ((*EVALUATE, *NET, *WEIGHTS, "--threat", "l5:1"), "'l5:1' cannot be read"),
    ((*EVALUATE, *NET, *WEIGHTS, "--threat", "linf:-1"), "linf:-1"),
    ((*EVALUATE, *NET, *WEIGHTS, "--threat", "linf:nan"), "linf:nan"),
    ((*EVALUATE, *NET, *WEIGHTS, "--threat", "l2:1 + l2:1"), "given twice"),
    ((*EVALUATE, *NET, *WEIGHTS, "--threat", "rt:1000px,30deg"), "1000"),
    ((*EVALUATE, *NET, *WEIGHTS, "--threat", "rt:3px,9999deg"), "9999"),
    ((*EVALUATE, *NET, *WEIGHTS, "--budget", "huge"), "'huge' is not one of"),
    ((*EVALUATE, *NET, *WEIGHTS, "--points", "0"), "--points"),
    ((*EVALUATE, *NET, *WEIGHTS, "--seed", "99999999999999999999999"), "--seed"),
    ((*EVALUATE, *NET, *WEIGHTS, "--device", "tpu"), "got 'tpu'"),
    ((*EVALUATE, *NET, *WEIGHTS, "--data", "folder:absent"), "absent: no such folder"),
    ((*EVALUATE, *NET, *WEIGHTS, "--shards", "99"), "--shards"),
    ((*EVALUATE, *NET, *WEIGHTS, "--output", "file"), "file"),
    ((*EVALUATE, *NET, *WEIGHTS, "--output", "file/x"), "file/x"),
    ((*DOCTOR, "--model", "cli_nets:colour"), "as many channels"),
    ((*DOCTOR, *NET, *WEIGHTS, "--threat", "l5:1"), "'l5:1' cannot be read"),
    ((*DOCTOR, *NET, *WEIGHTS, "--json", "file/x.json"), "file/x.json"),
    ((*DOCTOR, *NET, *WEIGHTS, "--json", "odd"), "odd"),
    ((*DOCTOR, *NET, *WEIGHTS, "--json", "/dev/null"), "it is no file"),
    ((*DOCTOR, *NET, *WEIGHTS, "--seed", "99999999999999999999999"), "--seed"),
    (("train", "digits-absent"), "digits-absent"),
    (("train", "digits-natural", "--start", "flat.safetensors"), "--start"),
    (("train", "digits-natural", "--start", "absent.safetensors"), "--start"),
    (("train", "digits-natural", "--out", "file"), "file"),
    (("train", "digits-natural", "--shards", "0"), "--shards"),
    (("train", "digits-natural", "--device", "tpu"), "got 'tpu'"),
    (("train", "mine-max", "--data", "folder:absent"), "absent: no such folder"),
    (("recipes", "--data", "svhn"), "data must be one of"),
    (("recipes", "digits-absent"), "digits-absent"),
    (("reproduce", "svhn"), "svhn"),
    (("reproduce", "digits", "--budget", "soon"), "is no time"),
    (("reproduce", "digits", "--rows", "absent"), "absent"),
    (("reproduce", "digits", "--rows", ""), "'digits-'"),
    (("reproduce", "digits", "--radii", "paper"), "paper"),
    (("reproduce", "digits", "--out", "file"), "file"),
]


@pytest.mark.parametrize(("words", "told"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_named_in_a_few_lines_and_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delenv("MPKIT_DATA", raising=False)
    before = _finished(place)
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code != 0
    assert told in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert len(done.stderr.strip().splitlines()) <= 12, done.stderr
    assert _finished(place) == before


def _finished(root: Path) -> set[str]:
    """Every file but compiled code."""
    found = set()
    for folder, _, names in os.walk(root):
        files = [Path(folder, name) for name in names if not name.endswith(".pyc")]
        found |= {str(file) for file in files if not _begun(file)}
    return found


def _begun(file: Path) -> bool:
    """Whether a file is a ledger that says itself that it is not finished."""
    return file.name == "ledger.safetensors" and DONE in Ledger.load(file).facts
