"""Named recipes: complete, hashed, and honest about their cost."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from mpkit.attacks import APGD, MSD, PGD, BehindZone, StraightThrough, WorstOfK
from mpkit.cli.main import main
from mpkit.core.memory import NoMemory
from mpkit.data import Crop, Flip
from mpkit.models import RankRule, front_of
from mpkit.models import network as network_of
from mpkit.sets import L1, L2, Linf, RotationTranslation, Union
from mpkit.studies import recipe_run
from mpkit.studies.catalog import ABOUT, names, plan, rows_of
from mpkit.studies.recipe_run import estimate
from mpkit.studies.scales import SCALES
from mpkit.training import Average, Balanced, Diverged, Max, Natural, RadiusWarmup, Single
from mpkit.training.costs import passes

SHAPE = (1, 28, 28)


@pytest.mark.parametrize("scale", SCALES)
def test_every_name_is_a_recipe_with_a_key_of_its_own(scale):
    plans = [plan(name, SHAPE, scale) for name in names("mnist")]
    assert len({made.key for made in plans}) == len(plans) == len(ABOUT)
    assert all(made.key == plan(made.name, SHAPE, scale).key for made in plans)


def test_the_radii_are_those_of_the_paper():
    made = plan("mnist-max", SHAPE)
    sets = {attack.set for attack in made.scheme.scheme.attacks}
    assert sets == {Linf(0.3), L2(2), L1(10)}
    assert plan("mnist-max-rt", SHAPE).scheme.scheme.attacks[1].set == RotationTranslation(3, 30)


def test_cifar10_has_the_radii_of_the_paper_too():
    shape = (3, 32, 32)
    made = plan("cifar10-max", shape, radii="paper")
    assert {attack.set for attack in made.scheme.scheme.attacks} == {Linf(4 / 255), L1(2000 / 255)}
    assert made.about == "the worst of l_inf and l_1 for each image"
    turned = plan("cifar10-avg-rt", shape, radii="paper").scheme.scheme.attacks
    assert [one.set for one in turned] == [Linf(4 / 255), RotationTranslation(3, 30)]
    paper = names("cifar10", "paper")
    assert {f"cifar10-{row}" for row in rows_of("cifar10", "paper")} <= set(paper)
    for name in paper:
        one, other = plan(name, shape), plan(name, shape, radii="paper")
        assert (one.key == other.key) == (name in ("cifar10-natural", "cifar10-rt"))
        assert "l_2" not in other.about


def test_mnist_has_one_kind_of_radii_and_digits_none_of_the_paper():
    assert names("mnist", "paper") == names("mnist")
    for name in names("mnist"):
        assert plan(name, SHAPE).key == plan(name, SHAPE, radii="paper").key
    with pytest.raises(ValueError, match=r"radii: the paper has mnist and cifar10, not 'digits'"):
        plan("digits-max", (1, 8, 8), radii="paper")
    with pytest.raises(ValueError, match=r"no 'cifar10-l2'; the paper radii have linf, l1, rt"):
        plan("cifar10-l2", (3, 32, 32), radii="paper")
    with pytest.raises(ValueError, match=r"radii: take common or paper, got 'small'"):
        plan("cifar10-max", (3, 32, 32), radii="small")


def test_a_key_changes_with_anything_that_matters():
    made = plan("mnist-max", SHAPE)
    others = [
        replace(made, network="paper_mnist"),
        replace(made, recipe=replace(made.recipe, lr=1e-4)),
        replace(made, scheme=replace(made.scheme, shares=(0.1,))),
        replace(made, held_out=999),
        replace(made, start="mnist-linf"),
        plan("mnist-max", SHAPE, "gpu"),
    ]
    assert len({made.key, *(other.key for other in others)}) == 7


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_colour_has_networks_radii_and_augmentation_of_its_own(scale):
    plans = {name.partition("-")[2]: plan(name, (3, 32, 32), scale) for name in names("cifar10")}
    made = plans["max"]
    sets = {one.set for one in made.scheme.scheme.attacks}
    assert sets == {Linf(8 / 255), L2(0.5), L1(12)}
    assert made.recipe.augment == (Crop(4), Flip())
    assert {"cpu": ("small_resnet", 10000), "gpu": ("preact_resnet18", 0)}[scale] == (
        made.network,
        made.images,
    )
    assert len({one.key for one in plans.values()}) == len(ABOUT)


def test_keys_of_recipes_without_the_later_fields_are_the_old_ones():
    made = plan("mnist-max", SHAPE)
    assert made.key[:16] == "7034ba987010229b"
    assert replace(made, images=1000).key != made.key
    augmented = replace(made.recipe, augment=(Flip(),))
    assert replace(made, recipe=augmented).key != made.key


@pytest.mark.parametrize("scheme", ["avg", "max", "random"])
def test_behind_a_dead_zone_l1_is_searched_on_its_output_and_linf_straight_through_it(scheme):
    made = plan(f"mnist-{scheme}@0.2", SHAPE)
    straight, *behind = made.scheme.scheme.attacks
    assert straight == StraightThrough(straight.attack, 0.2) and straight.set == Linf(0.3)
    assert len(behind) == (4 if scheme == "random" else 1)
    assert all(one == BehindZone(one.attack, 0.2) for one in behind)
    assert {one.attack.set for one in behind} == {L1(12.5)}  # 10 / (1 - a)
    assert made.network == "small_cnn@0.2" and made.about.endswith("behind a dead zone of 0.2")
    assert made.key not in {plan(f"mnist-{scheme}", SHAPE).key, plan("mnist-avg@0.3", SHAPE).key}


def test_behind_a_rank_zone_searches_of_every_norm_stay_in_their_balls():
    made = plan("mnist-random@rank20", SHAPE)
    model = network_of(made.network)(SHAPE, 10, torch.Generator().manual_seed(0))
    assert front_of(model) == RankRule(20) and made.about.endswith("behind a rank zone of 20")
    assert made.network == "wide_mlp@rank20" and made.recipe.epochs == 40
    drawn, shares = made.scheme.scheme, Counter()
    x, y = torch.rand(3, *SHAPE).round(), torch.tensor([1, 2, 3])
    for attack, weight in zip(drawn.attacks, drawn.weights, strict=True):
        shares[attack.set] += weight
        found = attack(model, x, y, torch.Generator().manual_seed(0))
        assert attack.set.contains(x, found.z).all()
    assert shares == pytest.approx({Linf(0.3): 0.35, L2(2.0): 0.1, L1(10.0): 0.55})


def test_other_networks_behind_a_rank_zone_keep_their_schedule():
    for scale, network, epochs in (("broad", "broad_cnn", 16), ("gpu", "paper_mnist", 10)):
        made = plan("mnist-random@rank10", SHAPE, scale)
        assert made.network == f"{network}@rank10" and made.recipe.epochs == epochs


@pytest.mark.parametrize(
    ("name", "channels"), [("mnist-avg@rank20", 1), ("mnist-random@rank", 1), ("a-random@rank9", 3)]
)
def test_what_is_no_recipe_behind_a_rank_zone_is_refused(name, channels):
    with pytest.raises(ValueError, match=f"recipe:? .*{name}"):
        plan(name, (channels, 28, 28), data="mnist")


def test_linf_is_drawn_once_in_four_behind_a_dead_zone():
    weights = plan("mnist-random@0.3", SHAPE).scheme.scheme.weights
    assert weights[0] / sum(weights) == 0.25 and len(set(weights[1:])) == 1


def test_the_wide_scale_has_twice_the_network_and_twice_the_passes():
    small, wide = (plan("mnist-random@0.3", SHAPE, scale) for scale in ("cpu", "wide"))
    assert wide.network == "wide_cnn@0.3" and wide.recipe.epochs == 2 * small.recipe.epochs
    assert replace(wide, network=small.network, recipe=small.recipe) == small
    with pytest.raises(ValueError, match="there is no wide one for cifar10"):
        plan("cifar10-max", (3, 32, 32), "wide")


def test_the_broad_scale_has_larger_kernels_and_holds_images_out_all_over_the_split():
    small, broad = (plan("mnist-random@0.3", SHAPE, scale) for scale in ("cpu", "broad"))
    assert broad.network == "broad_cnn@0.3" and broad.recipe.epochs == 16
    same = {"network": small.network, "recipe": small.recipe, "spread": False}
    assert broad.spread and replace(broad, **same) == small
    with pytest.raises(ValueError, match="there is no broad one for cifar10"):
        plan("cifar10-max", (3, 32, 32), "broad")


@pytest.mark.parametrize("name", ["mnist-avg@0.7", "mnist-avg@thick", "mnist-l1@0.2"])
def test_what_is_no_recipe_behind_a_dead_zone_is_refused(name):
    with pytest.raises(ValueError, match=f"recipe:? .*{name}"):
        plan(name, SHAPE)


def test_a_folder_of_pictures_gets_radii_of_its_own_size():
    small, large = (plan("mine-linf", (3, n, n), data="folder:x") for n in (16, 64))
    assert small.scheme.scheme.attack.set == large.scheme.scheme.attack.set
    assert plan("mine-l1", (3, 64, 64), data="folder:x").scheme.scheme.attack.set.eps == 48


@pytest.mark.parametrize(
    ("scheme", "forward", "backward"),
    [
        (Natural(), 1, 1),
        (Single(PGD(Linf(0.3), steps=5)), 7, 6),
        (Single(APGD(L1(10), steps=5)), 7, 6),
        (Average((PGD(Linf(0.3), steps=5), PGD(L2(2), steps=3))), 12, 10),
        (Max((PGD(Linf(0.3), steps=5), PGD(L2(2), steps=3))), 13, 9),
        (Single(MSD(Union(Linf(0.3), L2(2), L1(10)), steps=4)), 17, 5),
        (Single(WorstOfK(RotationTranslation(3, 30), 10)), 11, 1),
        (RadiusWarmup(Single(PGD(Linf(0.3), steps=5)), (0.5,)), 7, 6),
        (Balanced((("linf", PGD(Linf(0.3), steps=5)),)), 7, 6),
    ],
)
def test_passes_are_counted(scheme, forward, backward):
    assert passes(scheme, (1, 6, 6), draws=2) == (forward, backward)


def test_an_estimate_follows_the_epochs():
    made = plan("digits-linf", (1, 8, 8))
    twice = replace(made, recipe=replace(made.recipe, epochs=2 * made.recipe.epochs))
    assert estimate(twice, "digits", "cpu").gradients == 2 * estimate(made, "digits", "cpu")[0]
    assert estimate(made, "digits", "cpu").gradients == 10 * 1197 * 6


@pytest.mark.parametrize(
    ("data", "rows"), [("cifar10", "linf,max,balanced,ramp"), ("mnist", "linf,max")]
)
def test_a_table_says_what_is_missing_and_how_long_it_takes(data, rows, tmp_path, monkeypatch):
    """Without the data, and without a step."""
    monkeypatch.setattr(recipe_run, "speed", lambda model, x: 1e4)
    recipe_run._rate.cache_clear()
    where = ("--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"))
    words = ("reproduce", data, "--scale", "gpu", "--rows", rows, "--seeds", "1", "--plan")
    result = CliRunner().invoke(main, [*words, "--device", "cpu", *where])
    recipe_run._rate.cache_clear()
    *lines, last = result.output.splitlines()
    names = [f"{data}-{row}-seed0" for row in rows.split(",")]
    assert [line.partition(":")[0] for line in lines] == names
    minutes = [float(re.search(r"about ([\d.]+) min$", line)[1]) for line in lines]
    total = float(re.match(r"training about ([\d.]+) min in all on cpu", last)[1])
    assert abs(sum(minutes) - total) < 0.1 * len(lines) and not list(tmp_path.iterdir())


def test_on_a_gpu_what_is_trained_for_two_norms_is_a_mean_of_its_weights():
    """As on a CPU: both halves of RAMP, and the sampling of E-AT."""
    shape = (3, 32, 32)
    for row, mean in (("linf", None), ("max", None), ("balanced", 0.999), ("ramp", 0.999)):
        assert plan(f"cifar10-{row}", shape, "gpu").recipe.averaging == mean
    assert plan("cifar10-ramp", shape).recipe.averaging == 0.995
    assert plan("mnist-ramp", SHAPE, "gpu").recipe.averaging is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipes", "mnist-best"], r"no 'mnist-best'; take DATA-SCHEME"),
        (["recipes", "--data", "cats"], r"data must be one of digits, mnist, cifar10"),
        (["train", "digits-best"], r"no 'digits-best'"),
        (["train", "digits-max@wide"], r"'wide' is no width of a dead zone; try 0.2"),
        (["train", "cats-max"], r"cats"),
        (["train", "digits-balanced", "--out", "x"], r"goes on from digits-linf"),
        (["train", "digits-max", "--device", "cuda:99"], r"cuda:99 was asked for"),
        (["reproduce", "digits", "--budget", "9"], r"'9' is no time; write 90s, 9m or 2h"),
        (["reproduce", "digits", "--rows", "best"], r"no 'digits-best'"),
        (["reproduce", "digits", "--radii", "paper"], r"the paper has mnist and cifar10"),
        (["reproduce", "cifar10", "--root", "."], r"cifar-10-batches-py.*mpkit data cifar10"),
    ],
)
def test_bad_words_are_explained(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, words)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output
    assert re.search(message, result.output), result.output


@pytest.mark.parametrize("error", [Diverged("fit: the loss is nan"), NoMemory("fit: too much")])
def test_a_training_that_fails_is_told_in_one_line(error, tmp_path, monkeypatch):
    def fails(*words, **more):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe_run, "fit", fails)
    result = CliRunner().invoke(main, ["train", "digits-linf", "--device", "cpu"])
    assert result.exit_code == 1 and result.output.splitlines()[-1] == f"Error: {error}"


@pytest.mark.slow
def test_torchrun_takes_any_recipe(tmp_path):
    """As many shards as processes; then one process goes on from there, being the same run."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mpkit"]
    words += ["train", "digits-natural", "--device", "cpu", "--out", str(tmp_path)]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "training.json").read_text())
    assert "shards=2" in facts["settings"]["recipe"] and len(facts["history"]) == 10
    same = ["train", "digits-natural", "--device", "cpu", "--out", str(tmp_path)]
    again = CliRunner().invoke(main, [*same, "--shards", "2"])
    assert again.exit_code == 0, again.output
    other = CliRunner().invoke(main, same)
    assert other.exit_code == 1 and "holds another run" in other.output


def test_recipes_lists_all_and_shows_one():
    result = CliRunner().invoke(main, ["recipes", "digits-max", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    made = plan("digits-max", (1, 8, 8))
    assert made.key in result.output and repr(made.scheme) in result.output
    assert torch.float64 is not made.recipe.compute


def test_gradients_to_expect_follow_the_errors_of_every_epoch():
    """In the first epoch all sets cost alike; then each weighs as much as it still breaks."""
    made = plan("mnist-balanced", (1, 28, 28))
    price = [passes(Single(attack), (1, 28, 28)).backward for _, attack in made.scheme.attacks]
    first, *others = (key for key, _ in made.scheme.attacks)
    solved = {key: float(key != first) for key in (first, *others)}
    batch = made.recipe.batch
    record = {
        "settings": {"images": 3 * batch + 1},
        "history": [{"robust": solved}, {"robust": {}}],
    }
    expected = recipe_run.expected_gradients(record, made, (1, 28, 28))
    assert expected == 3 * batch * (sum(price) / len(price) + price[0])
