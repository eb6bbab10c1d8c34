"""One arithmetic on every processor: the settings of a run, its record, and two machines."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from helpers.toybook import toy_book
from mpbook.pages import execution
from mpbook.pages.chapters import chapter
from mpbook.pages.execution import execute, run_key
from mpbook.pages.running import refresh_chapters
from mpkit.core import processor
from mpkit.sets.norms import root
from mpkit.training import Adam

FACTS = {"model name": "Some  Processor 7", "flags": "sse2 avx avx2"}


@pytest.fixture
def modern(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A processor with AVX2, in an environment that says nothing of arithmetic."""
    monkeypatch.setattr(processor, "_facts", lambda: FACTS)
    for name in (*processor.ONE_ARITHMETIC, *processor.THREADS):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_modern_processor_is_told_which_code_to_take(modern: pytest.MonkeyPatch) -> None:
    assert processor.settings({}) == processor.ONE_ARITHMETIC
    assert processor.model() == "Some Processor 7"


def test_another_processor_is_told_nothing(modern: pytest.MonkeyPatch) -> None:
    modern.setattr(processor, "_facts", lambda: {"flags": "asimd"})
    assert processor.settings({}) == {}
    assert processor.settings({"dataset": "digits"}) == dict.fromkeys(processor.THREADS, "1")


def test_small_images_take_one_thread_and_others_as_many_as_there_are(
    modern: pytest.MonkeyPatch,
) -> None:
    assert processor.settings({"dataset": "mnist"}, 4)["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in processor.settings({"dataset": "mnist"})
    modern.setenv("OMP_NUM_THREADS", "2")
    assert processor.settings({"dataset": "mnist"}, 4)["OMP_NUM_THREADS"] == "2"
    assert processor.settings({"dataset": "digits"}, 4)["OMP_NUM_THREADS"] == "1"


def test_the_environment_has_the_last_word(modern: pytest.MonkeyPatch) -> None:
    modern.setenv("MKL_CBWR", "AUTO")
    found = processor.settings({"dataset": "digits"})
    assert found["MKL_CBWR"] == "AUTO"
    assert found["ATEN_CPU_CAPABILITY"] == processor.ONE_ARITHMETIC["ATEN_CPU_CAPABILITY"]


def test_a_run_under_another_arithmetic_is_another_run(
    tmp_path: Path, modern: pytest.MonkeyPatch
) -> None:
    toy = chapter(toy_book(tmp_path), "toy")
    usual = run_key(toy, {})
    modern.setenv("MKL_CBWR", "AUTO")
    assert run_key(toy, {}) != usual


def test_a_page_is_executed_as_its_record_says(tmp_path: Path, modern: pytest.MonkeyPatch) -> None:
    names = [*processor.ONE_ARITHMETIC, *processor.THREADS]
    root = toy_book(tmp_path, f"import os\nprint([os.environ.get(name) for name in {names}])")
    (root / "environment.yml").write_text("dependencies:\n  - python>=3.11\n")
    made = json.loads(execute(chapter(root, "toy"), {}, tmp_path / "store").read_text())
    record = made["metadata"]["mpkit"]
    values = [record["settings"][name] for name in names]
    assert values == [*processor.ONE_ARITHMETIC.values(), "1", "1"]
    assert made["cells"][-1]["outputs"][0]["text"] == [f"{values}\n"]
    assert record["processor"] == "Some Processor 7"
    assert record["asked"] == {"environment.yml": ">=3.11"}


@given(st.lists(st.floats(0, 1e30), min_size=1))
def test_the_root_is_one_to_three_roundings(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    exact = torch.tensor([math.sqrt(value) for value in values], dtype=torch.float64)
    assert ((root(x) - exact).abs() <= 3 * torch.finfo(torch.float64).eps * exact).all()
    assert not root(torch.zeros(2)).any()


def test_no_number_hangs_on_the_square_root_of_mkl() -> None:
    """Its last bit depends on the processor's maker; membership alone has room for that.

    The roots of Triton, ``tl``, are a GPU's own.
    """
    call = re.compile(r"(?<!math)(?<!np)(?<!sympy)(?<!\btl)\.sqrt_?\(")
    sources = [*(ROOT / "mpkit").rglob("*.py"), *(ROOT / "book" / "mpbook").rglob("*.py")]
    found = {path.name for path in sources if call.search(path.read_text(encoding="utf-8"))}
    assert found == {"verification.py"}
    weights = [torch.zeros(1, requires_grad=True)]
    assert Adam().build(weights, 0.1).param_groups[0]["fused"]


def test_two_makers_gave_equal_bits_under_the_settings_and_not_without() -> None:
    record = json.loads((ROOT / "book" / "results" / "bits.json").read_text())["processors"]
    bound = [one["digests"] for name, one in record.items() if not name.endswith(", free")]
    free = [one["digests"] for name, one in record.items() if name.endswith(", free")]
    assert len(bound) >= 2
    assert all(one == bound[0] for one in bound)
    assert len(free) >= 2
    assert free[0] != free[1]


def test_two_machines_do_not_contradict_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second keeps what the first has stored where it finds the same within the tolerance."""
    root = toy_book(tmp_path, "import os\nprint(f\"union {os.environ['TOY']}%\")")
    path = root / "book" / "toy.ipynb"
    toy = json.loads(path.read_text())
    toy["cells"][-1]["metadata"] = {"mpkit": {"may_move": {"points": 0.5}}}
    path.write_text(json.dumps(toy))

    def refreshed(number: str) -> str:
        monkeypatch.setenv("TOY", number)
        ((_, state),) = refresh_chapters(root, [])
        return state

    assert refreshed("66.0") == "refreshed"
    first = path.read_bytes()
    monkeypatch.setattr(processor, "_facts", lambda: FACTS)
    assert [refreshed("65.5"), path.read_bytes()] == ["unchanged", first]
    assert refreshed("65.4") == "refreshed"
    assert "union 65.4%" in path.read_text()


PICTURE = (
    "import base64, os\n"
    "from IPython.display import display\n"
    "words = base64.b64encode(os.environ['TOY'].encode()).decode()\n"
    "display({'image/png': words}, raw=True)"
)


def test_pictures_are_drawn_again_by_the_book_s_own_arithmetic_alone(
    tmp_path: Path, modern: pytest.MonkeyPatch
) -> None:
    """Elsewhere nobody can tell whether a picture moved with the code or with the bits."""
    root = toy_book(tmp_path, PICTURE)

    def refreshed(seen: str, code: str, drawing: str) -> str:
        texts = [("mpkit/attacks/pgd.py", code), ("mpbook/figures/charts.py", drawing)]
        modern.setenv("TOY", seen)
        modern.setattr(execution, "source_texts", lambda *packages: texts)
        ((_, state),) = refresh_chapters(root, [])
        return state

    assert refreshed("first", "code", "drawing") == "refreshed"
    assert refreshed("other bits", "code", "drawing") == "unchanged"
    assert refreshed("other code", "other code", "drawing") == "refreshed"
    modern.setenv("MKL_CBWR", "AUTO")
    assert refreshed("both", "third code", "drawing") == "unchanged"
    assert refreshed("other drawing", "third code", "other drawing") == "refreshed"
