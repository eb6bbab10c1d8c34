"""The scripts that measure costs: what they time, the meters they read, the records they left."""

import importlib
import stat
from collections import Counter

import pytest
import torch

from helpers.site_rules import ROOT
from helpers.toys import generator, relu_net
from mpkit.attacks import MSD, PGD, SLIDE
from mpkit.core import records
from mpkit.data import Images
from mpkit.models import QueryCounter, small_cnn
from mpkit.sets import L1, L2, Linf, Union
from mpkit.studies import catalog
from mpkit.training import Average, LogitPairing, Max, Single, costs


def script(name):
    return importlib.import_module(f"benchmarks.{name}")


BENCH = ROOT / "book" / "results" / "bench"
CPU = torch.device("cpu")


def toy(n=6):
    model = relu_net(0, inputs=16, classes=5)
    x = torch.rand(n, 1, 4, 4, generator=generator(), dtype=torch.float64)
    return model, x, torch.arange(n) % 5


SEARCHES = (PGD(Linf(0.1), 3), PGD(L2(0.5), 3), SLIDE(L1(1.0), 3))
SCHEMES = {
    "single": Single(SEARCHES[0]),
    "avg": Average(SEARCHES),
    "max": Max(SEARCHES),
    "msd": Single(MSD(Union(Linf(0.1), L2(0.5)), 3)),
    "paired": LogitPairing(*SEARCHES[1:]),
}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_the_bare_loop_does_the_passes_of_the_scheme(scheme):
    rows = script("training.costs_rows")
    passes = []
    for _ in range(2):
        model, x, y = toy()
        counted = QueryCounter(model).train()
        scheme(counted, x, y, generator()).sum().backward()
        assert counted.training
        passes.append((counted.forwards, counted.backwards, counted.learned))
        forwards, backwards, learned = (n // len(x) for n in passes[0])
        scheme = rows.Bare(backwards - learned, forwards - backwards, learned)
    assert passes[0] == passes[1]


@pytest.mark.parametrize("row", ["natural", "rt", "paired", "ramp"])
def test_the_bare_loop_of_training_does_the_passes_of_a_recipe(row):
    training = script("training.throughput")
    x = torch.rand(12, 1, 28, 28, generator=generator())
    images = Images(x, torch.arange(12) % 10, tuple("0123456789"), "toy")
    run = training.made(row, "small_cnn", images, 4)
    seen = Counter()

    def count(model, inputs):
        seen[
            model is run.model, model.training, inputs[0].requires_grad, torch.is_grad_enabled()
        ] += 1

    run.model.register_forward_pre_hook(count)
    if run.alongside:
        run.alongside.natural.model.register_forward_pre_hook(count)
    run.stretch({}, 1)
    ours = Counter(seen)
    seen.clear()
    training.bare(run, x[:4], images.y[:4], training.work_of(run.scheme, images))
    assert seen == ours
    assert run.done == 1


def test_max_by_the_scores_is_max():
    rows = script("training.costs_rows")
    model, x, y = toy()
    ours, reused = (kind(SEARCHES)(model, x, y, generator(3)) for kind in (Max, rows.MaxByScores))
    torch.testing.assert_close(ours, reused, rtol=0, atol=0)


def test_the_last_point_takes_one_look_fewer():
    rows = script("training.costs_rows")
    whole, last = (
        costs.passes(Single(kind(Linf(0.1), 4)), (1, 4, 4)) for kind in (PGD, rows.LastPoint)
    )
    assert (whole.forward - last.forward, whole.backward - last.backward) == (1, 0)


def test_the_network_that_grows_is_the_small_one_at_its_own_width():
    rows = script("training.costs_rows")
    grown = rows.wider(1, generator(1)).state_dict()
    small = small_cnn((1, 28, 28), 10, generator(1)).state_dict()
    assert grown.keys() == small.keys()
    assert all(torch.equal(one, small[name]) for name, one in grown.items())


def test_every_recipe_is_timed_and_every_row_has_a_name_of_its_own():
    rows = list(script("training.costs_rows").rows("cpu"))
    assert [row.name for row in rows if row.part == "schemes"] == list(catalog.ABOUT)
    assert len({row.key for row in rows}) == len(rows)


def test_the_passes_of_a_row_are_those_that_the_package_counts():
    made = script("training.costs")
    images = made.pictures(16)
    for row in script("training.costs_rows").rows("cpu"):
        if row.part == "schemes" and row.name in ("natural", "max", "paired", "msd"):
            bare = made.counted(row, costs.parts(row.scheme)[0], images)
            each = costs.passes(row.scheme, (1, 28, 28))
            found = (bare.climbs + bare.looks + bare.learns, bare.climbs + bare.learns)
            assert found == tuple(each)


# Meters


def test_peak_memory_is_that_of_what_lives_at_one_time():
    mib = 2**20

    def work():
        for _ in range(3):
            torch.empty(4 * mib, dtype=torch.uint8)
        kept = torch.empty(2 * mib, dtype=torch.uint8), torch.empty(3 * mib, dtype=torch.uint8)
        del kept

    assert 5 * mib <= script("common.meters").peak_memory(work, CPU) < 5.1 * mib


def package(folder, name, before, full=10**9):
    place = folder / name
    place.mkdir(parents=True)
    (place / "energy_uj").write_text(f"{before}\n")
    (place / "max_energy_range_uj").write_text(f"{full}\n")
    return place / "energy_uj"


def test_rapl_adds_packages_and_goes_on_after_the_counter_is_full(tmp_path):
    first = package(tmp_path, "intel-rapl:0", 1_000_000)
    second = package(tmp_path, "intel-rapl:1", 999_000_000)
    core = package(tmp_path, "intel-rapl:0:0", 0)  # a part of the first
    meter, words = script("common.meters").meter(CPU, tmp_path)

    def work():
        first.write_text("4000000")
        second.write_text("1000000")
        core.write_text("7000000")

    assert meter.joules(work) == pytest.approx(3.0 + 2.0)
    assert "RAPL" in words


def test_without_a_counter_nothing_is_said_about_energy(tmp_path):
    meter, words = script("common.meters").meter(CPU, tmp_path)
    assert meter is None
    assert words.startswith("not measured")


def test_power_readings_of_a_gpu_become_energy(tmp_path, monkeypatch):
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nwhile true; do echo 200.0; sleep 0.02; done\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    made = script("common.meters")
    taken = []

    def work():
        begun = made.time.perf_counter()
        while made.time.perf_counter() - begun < 0.3:
            pass
        taken.append(made.time.perf_counter() - begun)

    assert made.Smi("0").joules(work) == pytest.approx(200 * taken[0], rel=0.2)


# Rows that are kept, and the records


def test_a_measurement_goes_on_where_it_stopped(tmp_path):
    kept, calls = script("common.records").Kept, []

    def make():
        calls.append(1)
        return {"n": len(calls)}

    output = tmp_path / "found.json"
    assert kept(output, "a").row("first", make) == {"n": 1}
    assert kept(output, "a").row("first", make) == {"n": 1}
    assert kept(output, "other settings").row("first", make) == {"n": 2}
    again = kept(output, "other settings")
    again.done()
    assert list(tmp_path.iterdir()) == []


def test_shares_of_a_measurement_come_together(tmp_path):
    kept, output = script("common.records").Kept, tmp_path / "found.json"
    for part in (0, 1):
        kept(output, share=part).row(f"row {part}", lambda n=part: n)
    kept(output.with_stem("found-other"), share=0).row("other", lambda: 9)
    whole = kept(output)
    assert whole.rows == {"row 0": 0, "row 1": 1}
    assert whole.seconds == sum(kept(output, share=part).seconds for part in (0, 1))
    whole.row("last", lambda: 2)
    assert kept(output, share=0).rows == {}
    assert kept(output).rows == {"row 0": 0, "row 1": 1, "last": 2}
    kept(output).done()
    assert [path.name for path in tmp_path.iterdir()] == ["found-other.0.part"]


def test_the_record_of_costs_counts_as_the_package_does():
    record = records.read_record(BENCH / "costs.json")
    assert not record["commit"].endswith("+")
    timed = {row["scheme"]: row for row in record["rows"] if row["part"] == "schemes"}
    assert list(timed) == list(catalog.ABOUT)
    for name, row in timed.items():
        each = costs.passes(catalog.plan(f"mnist-{name}", (1, 28, 28)).scheme, (1, 28, 28))
        assert (row["forward"], row["gradients"]) == tuple(each), name
    for row in record["rows"]:
        for key in ("microseconds", "over plain training", "over the bare loop"):
            middle, least, most = row[key]
            assert 0 < least <= middle <= most


def test_the_record_of_gains_is_whole():
    record = records.read_record(BENCH / "gains.json")
    assert not record["commit"].endswith("+")
    seen = {(row["scheme"], row["steps"], row["seed"]) for row in record["rows"]}
    assert len(seen) == len(record["rows"])
    names, steps, seeds = (set(column) for column in zip(*seen, strict=True))
    assert len(seen) == len(names) * len(steps) * len(seeds)


def test_the_record_of_training_says_what_the_pages_say():
    record = records.read_record(BENCH / "training.json")
    assert not record["commit"].endswith("+") and record["left out"] == []
    shares = {
        (one["network"], one["row"]): one["of the bare loop, processor time"][0]
        for one in record["races"]
    }
    rows = list(catalog.ABOUT)
    assert set(shares) == {(net, row) for net in ("small_cnn", "paper_mnist") for row in rows}
    assert min(shares["paper_mnist", row] for row in rows) >= 0.9
    above = [row for row in rows if shares["small_cnn", row] >= 0.9]
    assert above == ["natural"]
