"""Natural training alongside: the law of the projection, and what the loop makes of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.small_runs import SHORT, Explodes, linear, rng, tiny, trained, weights
from mpkit.attacks import PGD
from mpkit.sets import Linf
from mpkit.training import Checkpoints, Diverged, Natural, Recipe, Single, fit
from mpkit.training.gradient_projection import Alongside, projected
from mpkit.training.run import Run, mixed

WITH = Recipe(epochs=2, batch=16, lr=0.1, natural=0.5)
NEAR = Single(PGD(Linf(0.05), 3))
entries = st.floats(-5, 5).map(lambda number: number if abs(number) > 1e-6 else 0.0)
ways = st.lists(entries, min_size=3, max_size=3)
shares = st.floats(0, 1)


@settings(deadline=None)
@given(ways, ways, shares)
def test_the_projection_by_hand(a, b, share):
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    length = float((a @ a) ** 0.5 * (b @ b) ** 0.5)
    cosine = max(0.0, float(a @ b) / length) if length > 0 else 0.0
    expected = (1 - share) * a + share * cosine * b
    torch.testing.assert_close(projected(a, b, share), expected, atol=1e-12, rtol=1e-9)


@settings(deadline=None)
@given(ways, shares)
def test_equal_ways_are_kept_and_opposite_ones_only_shorten(a, share):
    a = torch.tensor(a, dtype=torch.float64)
    torch.testing.assert_close(projected(a, a.clone(), share), a, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(projected(a, -3 * a, share), (1 - share) * a)


def test_a_way_of_no_length_gives_nothing_and_no_nan():
    still, way = torch.zeros(2, 2), torch.ones(2, 2)
    assert torch.equal(projected(way, still, 0.25), 0.75 * way)
    assert torch.equal(projected(still, way, 0.25), still)


def alone(scheme, epoch_of, start, seed):
    """One epoch of a run by itself, from given weights."""
    model = linear()
    model.load_state_dict(start)
    run = Run(model, tiny(), scheme, Recipe(epochs=2, batch=16, lr=0.1), seed)
    model.train()
    for step in range(run.steps):
        run.step(epoch_of, step)
    return model


def test_an_epoch_is_two_runs_from_the_same_weights_put_together():
    """The first epoch against two runs that know nothing of each other."""
    model = linear()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = Run(model, tiny(), NEAR, WITH, seed=5)
    assert run.stretch({}) == run.steps
    robust, natural = alone(NEAR, 0, start, 5), alone(Natural(), 0, start, mixed(5, 0))
    for name, tensor in model.state_dict().items():
        ways = robust.state_dict()[name] - start[name], natural.state_dict()[name] - start[name]
        assert torch.equal(tensor, start[name] + projected(*ways, 0.5)), name


def test_the_next_epoch_begins_where_the_last_one_was_put_together():
    run = Run(linear(), tiny(), NEAR, WITH, seed=5)
    run.stretch({})
    joined = weights(run.model).clone()
    run.alongside.step(1, 0)
    assert torch.equal(torch.cat([b.flatten() for b in run.alongside.before]), joined)
    assert not torch.equal(weights(run.alongside.natural.model), joined)


def test_statistics_join_and_counters_do_not():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model = model.double()
    fit(model, tiny(), NEAR, WITH, rng())
    assert int(model[2].num_batches_tracked) == 6  # no attack, and no natural step, moves it
    assert model[2].running_var.isfinite().all() and (model[2].running_var > 0).all()


def test_the_running_mean_moves_as_the_weights_do():
    class Still:
        model = linear(1)

        def step(self, epoch, step):
            pass

    robust = linear()
    mean = [p.detach() + 7 for p in robust.parameters()]
    beside = Alongside(robust, Still(), 0.5, mean)
    beside.step(0, 0)
    with torch.no_grad():
        for p in robust.parameters():
            p += 2
    beside.join()
    for p, average in zip(robust.parameters(), mean, strict=True):
        torch.testing.assert_close(average, p.detach() + 5)  # both went back by one


def test_resuming_in_mid_epoch_changes_no_bit(tmp_path):
    from test_checkpoints import interrupted

    recipe = Recipe(epochs=3, batch=2, lr=0.1, averaging=0.9, natural=0.3)
    model, history = trained(recipe)
    for after in (1, 4):
        interrupted(tmp_path / str(after), after, recipe)
        again, its_history = trained(recipe, checkpoints=Checkpoints(tmp_path / str(after)))
        assert torch.equal(weights(again), weights(model)) and its_history == history


def test_natural_training_that_diverges_is_told():
    run = Run(linear(), tiny(), NEAR, WITH, seed=0)
    run.alongside.natural.scheme = Explodes(0, float("inf"))
    with pytest.raises(Diverged, match="the loss is inf in epoch 1, step 1"):
        run.stretch({})


def test_a_share_of_nothing_changes_nothing_and_one_too_large_is_refused():
    assert Run(linear(), tiny(), NEAR, SHORT, seed=0).alongside is None
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"natural must be in \[0, 1\) such as 0.5"):
            Recipe(natural=share)
