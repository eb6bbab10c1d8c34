"""What every attack must obey, from the one table."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from helpers import every, oracles
from helpers.pretend import Count
from helpers.small_runs import rng
from helpers.stand_ins import Taped, ghost, there
from helpers.toys import generator, linear_problem
from mpkit.attacks import PGD, AttackResult, Batched, CrossEntropy, GraphedAttack
from mpkit.attacks.base import OnceReached, Problem
from mpkit.attacks.gradients import Guarded, attacking, guard
from mpkit.core import trees
from mpkit.core.checks import unread
from mpkit.core.progress import Quiet
from mpkit.evaluation import evaluate
from mpkit.sets import Linf, projections, thresholds
from mpkit.training import Single
from mpkit.training.recipes import fingerprint

ROWS = every.ATTACKS
each = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
FREE = {name: row for name, row in ROWS.items() if not row.waits}
each_free = pytest.mark.parametrize("row", FREE.values(), ids=FREE)
EXACT = {name: row for name, row in ROWS.items() if row.optimum}
AIMED = {name: row for name, row in ROWS.items() if row.retargets}


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_found_is_allowed_and_says_the_truth(row, dtype):
    if row.attack == ROWS["transfer"].attack and dtype == torch.float32:
        pytest.skip("its guide works in float64")
    model, x, y = every.problem(dtype=dtype)
    found = row.attack(model, x, y, generator())
    assert isinstance(found, AttackResult)
    assert row.attack.set.contains(x, found.z).all()
    assert torch.equal(found.image, row.attack.set.apply(x, found.z))
    assert found.image.dtype == dtype and not found.image.requires_grad
    with torch.no_grad():
        told = row.attack.loss(model(found.image), y)
    if "targets" not in repr(row.attack):  # whose score is that of the target
        torch.testing.assert_close(found.score, told)


@each
def test_the_same_generator_gives_the_same_result(row):
    model, x, y = every.problem()
    torch.manual_seed(1)
    first = row.attack(model, x, y, generator(3))
    torch.manual_seed(2)
    again = row.attack(model, x, y, generator(3))
    assert torch.equal(first.image, again.image) and torch.equal(first.score, again.score)


@each
def test_model_and_images_are_left_as_they_were(row):
    model, x, y = every.problem()
    model = nn.Sequential(*model, nn.BatchNorm1d(4).double(), nn.Dropout())
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = x.clone()
    row.attack(model, x, y, generator())
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
    assert torch.equal(x, kept) and torch.is_grad_enabled()


@each
def test_who_was_broken_stays_broken_when_examples_may_leave(row):
    """The best point is kept, and who has reached the goal is put aside with it."""
    model, x, y = every.problem()
    with attacking(model), torch.no_grad():
        guarded = guard(model, row.attack.classes, y)
        found = row.attack.find(Problem(guarded, x, y, generator(3), OnceReached(1)))
        assert row.attack.set.contains(x, found.z).all()
        assert torch.equal(found.image, row.attack.set.apply(x, found.z))


@each
def test_pieces_as_large_as_the_batch_change_nothing_and_smaller_ones_are_allowed(row):
    model, x, y = every.problem()
    whole = row.attack(model, x, y, generator(3))
    once = Batched(row.attack, len(x))(model, x, y, generator(3))
    assert torch.equal(once.image, whole.image)
    cut = Batched(row.attack, 4)(model, x, y, generator(3))
    assert row.attack.set.contains(x, cut.z).all() and cut.image.shape == x.shape


@pytest.mark.parametrize("row", AIMED.values(), ids=AIMED)
def test_a_target_is_aimed_at(row):
    model, x, y = every.problem()
    target = (y + 1) % 4
    aim = CrossEntropy().toward(target)
    found = replace(row.attack, loss=aim)(model, x, y, generator(3))
    assert row.attack.set.contains(x, found.z).all()
    with torch.no_grad():
        clean, now = model(x), model(found.image)
    gained = aim(now, y) - aim(clean, y)
    assert (
        (gained > 0).any()
        or (now.argmax(1) == target).any()
        or "Decision" in str(type(row.attack).__mro__)
    )


@pytest.mark.parametrize("row", EXACT.values(), ids=EXACT)
def test_the_linear_optimum_is_reached_box_included(row):
    attack = row.strong
    for seed in range(2):
        model, x, y = linear_problem(seed)
        w = model.weight.detach().flatten().numpy()
        kind, eps = type(attack.set).__name__, attack.set.eps
        best = [oracles.best_linear(kind, w, image.flatten().numpy(), eps) for image in x]
        found = attack(model, x, y, generator(seed))
        gain = ((found.image - x) * model.weight).flatten(1).sum(1).detach()
        share = gain / torch.tensor(best, dtype=x.dtype)
        assert (share >= row.optimum).all() and (share <= 1 + 1e-9).all()


@each_free
def test_no_attack_waits_for_the_device_or_brings_it_numbers_of_the_host(row):
    model, x, _ = every.problem()
    attack = row.attack
    if guide := getattr(attack, "guide", None):
        attack = replace(attack, guide=copy.deepcopy(guide))
    with ghost(), unread(), Count() as count:
        x = torch.empty(x.shape, dtype=x.dtype, device="cuda")
        y = torch.empty(every.IMAGES, dtype=torch.int64, device="cuda")
        attack = on_device(attack)
        if guide:
            there(attack.guide)
        found = attack.find(Problem(Guarded(there(model), 4), x, y, rng()))
    assert found.image.is_cuda and found.image.shape == x.shape
    assert not count.crossings


def test_the_stand_in_notices_who_waits():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    with ghost():
        x = torch.empty(4, 1, 8, 8, device="cuda")
        y, model = torch.empty(4, dtype=torch.int64, device="cuda"), there(model)
        with pytest.raises(DataDependentOutputException):
            PGD(Linf(0.3), 3)(model, x, y, rng())  # its checks look at the images
        with unread():
            PGD(Linf(0.3), 3)(model, x, y, rng())
        with pytest.raises(RuntimeError, match="host's numbers"):
            torch.tensor([1.0], device="cuda")
        with Count() as count:
            x * torch.full((), 2.0)
            torch.zeros(3).to("cuda")
        assert sorted(name for name, _ in count.crossings) == ["_to_copy", "mul"]


def on_device(value):
    """Radii of rows as tensors of the device that has no values."""
    return trees.mapped(lambda t: torch.empty(t.shape, dtype=t.dtype, device="cuda"), value)


@each_free
def test_a_recorded_attack_follows_images_labels_weights_and_generator(row, monkeypatch):
    """The sets take the way of a GPU, whose values are not read; a stand-in records."""
    for module in (projections, thresholds):
        monkeypatch.setattr(module, "blind", lambda tensor: True)
    model, x, y = every.problem()
    search = GraphedAttack(row.attack, model, x, y, Taped)
    for step in range(2):
        with torch.no_grad():
            model[1].weight.mul_(-1.1)
        x, y = 1 - x, (y + 1) % 4
        ours, theirs = generator(step), generator(step)
        found, plain = search(x, y, ours), row.attack(model, x, y, theirs)
        assert torch.equal(found.image, plain.image) and torch.equal(found.score, plain.score)
        assert torch.equal(ours.get_state(), theirs.get_state())


class Dies(Quiet):
    """Ends an evaluation after so many units."""

    def __init__(self, units):
        self.units = units

    def advance(self, steps, note):
        self.units -= steps
        if not self.units:
            raise KeyboardInterrupt


@each
def test_an_evaluation_that_was_interrupted_goes_on_to_the_same_ledger(row, tmp_path):
    model, x, y = every.problem()
    words = {"batch": 3, "file": tmp_path / "ledger.safetensors"}
    whole = evaluate(model, x, y, {"it": row.attack}, generator(3), batch=3)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, x, y, {"it": row.attack}, generator(3), progress=Dies(2), **words)
    assert evaluate(model, x, y, {"it": row.attack}, generator(3), **words) == whole


def test_attacks_have_fingerprints_that_tell_them_apart():
    named = {name: row for name, row in ROWS.items() if name != "transfer"}  # holds a network
    prints = [fingerprint(Single(row.attack)) for row in named.values()]
    assert len(set(prints)) == len(prints)
    assert prints == [fingerprint(Single(row.attack)) for row in named.values()]
