"""The loop: decided by its arguments, exact where a formula says so, clear when it goes wrong."""

from dataclasses import replace
from io import StringIO

import pytest
import torch
from torch import nn

from helpers.small_runs import SHORT, Explodes, linear, rng, tiny, trained, weights
from mpkit.core.progress import Bar, Quiet
from mpkit.data import Flip, load
from mpkit.models import small_cnn
from mpkit.training import (
    SGD,
    Constant,
    Diverged,
    Natural,
    Recipe,
    Scheme,
    Validation,
    accuracy,
    fit,
)
from mpkit.training.run import Run, generator

# --- the loop


def test_one_step_of_sgd_is_the_formula():
    recipe = Recipe(epochs=1, batch=48, lr=0.5, optimizer=SGD(0.0, 0.0), schedule=Constant())
    model, history = trained(recipe)
    by_hand = linear()
    loss = nn.functional.cross_entropy(by_hand(tiny().x), tiny().y)
    loss.backward()
    expected = torch.cat([(p - 0.5 * p.grad).detach().flatten() for p in by_hand.parameters()])
    torch.testing.assert_close(weights(model), expected, rtol=1e-13, atol=1e-15)
    assert history[0].loss == pytest.approx(loss.item(), rel=1e-13)
    assert history[0].lr == 0.5 and not model.training


def test_the_generator_decides_everything_and_nothing_global_does():
    first, second, other = (weights(trained(SHORT, seed=s)[0]) for s in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
    model, state = linear(), torch.random.get_rng_state()
    fit(model, tiny(), Natural(), SHORT, rng())
    assert torch.equal(weights(model), first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_image_is_seen_once_an_epoch():
    seen = []

    class Watch(Scheme):
        def __call__(self, model, x, y, rng):
            seen.append(x.flatten(1).sum(dim=1))
            return Natural()(model, x, y, rng)

    trained(Recipe(epochs=2, batch=16), Watch())
    sums = tiny().x.flatten(1).sum(dim=1).sort().values
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert torch.equal(first.sort().values, sums) and torch.equal(second.sort().values, sums)
    assert not torch.equal(first, second)  # in a new order


def test_augmentation_comes_before_the_scheme_and_only_the_position_decides_it():
    seen = []

    class Watch(Scheme):
        def __call__(self, model, x, y, rng):
            seen.append(x)
            return Natural()(model, x, y, rng)

    recipe = Recipe(epochs=2, batch=16, augment=(Flip(),))
    first, _ = trained(recipe, Watch())
    again, _ = trained(recipe)
    plain, _ = trained(replace(recipe, augment=()))
    images = {tuple(image.flatten().tolist()) for image in tiny().x}
    mirrors = {tuple(image.flatten().tolist()) for image in tiny().x.flip(-1)}
    shown = [tuple(image.flatten().tolist()) for x in seen for image in x]
    assert set(shown) <= images | mirrors
    assert 0 < sum(image in images for image in shown) < len(shown)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(plain))


def test_no_two_steps_share_random_numbers():
    drawn = []

    class Draws(Scheme):
        def __call__(self, model, x, y, rng):
            drawn.append(torch.rand((), generator=rng, dtype=torch.float64).item())
            return Natural()(model, x, y, rng)

    trained(replace(SHORT, shards=2), Draws())
    assert len(drawn) == len(set(drawn)) == 3 * 3 * 2  # epochs, steps, shards


def test_shards_add_up_to_the_whole_batch():
    whole, parts = (weights(trained(replace(SHORT, shards=n))[0]) for n in (1, 4))
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-14)


def normalized():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2)).double()


def test_each_shard_is_normalized_by_itself_and_moves_the_statistics_by_the_mean():
    """One step by hand: every shard's answers before the step, and the statistics after it."""
    seen = []

    class Looks(Scheme):
        def __call__(self, model, x, y, rng):
            seen.append((x, model(x)))
            model.eval()
            seen.append((x, model(x)))
            model.train()
            return nn.functional.cross_entropy(seen[-2][1], y, reduction="none")

    model, first = normalized(), normalized()
    first.load_state_dict(model.state_dict())
    fit(model, tiny(), Looks(), Recipe(epochs=1, batch=48, shards=3, lr=0.1), rng())
    mean, var = torch.zeros(16), torch.zeros(16)
    for (x, train), (_, after) in zip(seen[::2], seen[1::2], strict=True):
        pixels = x.flatten(1)
        alone = normalized()
        alone.load_state_dict(first.state_dict())
        torch.testing.assert_close(alone(x), train)
        torch.testing.assert_close(alone.eval()(x), after)
        mean, var = mean + 0.1 * pixels.mean(0) / 3, var + 0.1 * pixels.var(0) / 3
    assert len(seen) == 6 and len(seen[0][0]) == 16
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, 0.9 + var)
    assert model[1].num_batches_tracked == 1


def test_a_single_shard_keeps_the_statistics_of_torch():
    recipe = Recipe(epochs=1, batch=48, lr=0.5, optimizer=SGD(0.0, 0.0), schedule=Constant())
    model = normalized()
    by_hand = normalized()
    by_hand.load_state_dict(model.state_dict())
    seed = torch.randint(2**62, (), generator=rng(), dtype=torch.int64)
    order = Run(model, tiny(), Natural(), recipe, int(seed))._rows(0)[0]
    by_hand(tiny().x[order])
    fit(model, tiny(), Natural(), recipe, rng())
    assert torch.equal(model[1].running_mean, by_hand[1].running_mean)
    assert torch.equal(model[1].running_var, by_hand[1].running_var)


def test_clipping_bounds_the_step():
    recipe = Recipe(
        epochs=1, batch=48, lr=1.0, optimizer=SGD(0.0, 0.0), schedule=Constant(), clip=1e-3
    )
    moved = weights(trained(recipe)[0]) - weights(linear())
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_averaging_gives_a_mean_of_the_weights_on_the_way():
    recipe = Recipe(epochs=1, batch=24, lr=0.5, optimizer=SGD(0.0, 0.0), schedule=Constant())
    run = Run(linear(), tiny(), Natural(), recipe, 5)
    order = run._rows(0)
    path = [weights(run.model)]
    for step in range(2):
        run._step(Natural(), 0, step, order[step])
        path.append(weights(run.model))
    averaged = Run(linear(), tiny(), Natural(), replace(recipe, averaging=0.9), 5)
    averaged.stretch({})
    averaged.swap()
    first = 0.1 * path[0] + 0.9 * path[1]  # the decay is 1/10 at step 0 and 2/11 at step 1
    torch.testing.assert_close(weights(averaged.model), 2 / 11 * first + 9 / 11 * path[2])


def test_mixed_precision_and_channels_last_stay_near_the_exact_run():
    images = load("digits").first(320)
    results = []
    for recipe in (
        Recipe(epochs=2, batch=32),
        Recipe(epochs=2, batch=32, compute=torch.bfloat16, layout=torch.channels_last),
    ):
        model = small_cnn(images.shape, 10, rng())
        history = fit(model, images, Natural(), recipe, rng())
        assert weights(model).dtype == torch.float32
        results.append(history[-1].loss)
    assert results[0] != results[1] and abs(results[0] - results[1]) < 0.05 * results[0]


def test_digits_are_learned_in_seconds():
    train, test = (load("digits", split).to(dtype=torch.float64) for split in ("train", "test"))
    model = small_cnn(train.shape, 10, rng()).double()
    fit(model, train, Natural(), Recipe(epochs=10), rng())
    assert accuracy(model, test) >= 0.97


def test_progress_is_told_and_closed():
    told = []

    class Note(Quiet):
        def start(self, total, done):
            told.append((total, done))

        def advance(self, steps, note):
            told.append(steps)

        def close(self):
            told.append("closed")

    trained(Recipe(epochs=2, batch=2), progress=Note())
    assert told == [(48, 0), 20, 4, 20, 4, "closed"]


def test_a_bar_shows_loss_and_time_left():
    file = StringIO()
    trained(Recipe(epochs=2, batch=2), progress=Bar("digits", file))
    assert "digits" in file.getvalue() and "loss" in file.getvalue()


def test_positions_have_random_numbers_of_their_own():
    draws = {
        torch.rand((), generator=generator("cpu", *key), dtype=torch.float64).item()
        for key in [(0, 0), (0, 1), (1, 0), (0, 0, 0, 1), (0, 0, 1, 0), (2**61, 0)]
    }
    assert len(draws) == 6


# --- what goes wrong


def test_divergence_stops_with_epoch_step_and_remedy():
    with pytest.raises(Diverged, match=r"inf in epoch 2, step 1 of 3; lower lr .* or set clip"):
        trained(SHORT, Explodes(1))


def test_weights_that_are_not_finite_are_never_kept():
    model = linear()
    run = Run(model, tiny(), Natural(), SHORT, 0)
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(Diverged, match="a weight is not finite"):
        run.tensors()


def test_outputs_must_fit_the_classes():
    images = replace(tiny(), classes=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"2 outputs, but tiny has 3 classes.*classes=3"):
        fit(linear(), images, Natural(), SHORT, rng())


def test_outputs_must_be_one_row_of_scores_for_each_image():
    with pytest.raises(ValueError, match=r"must return \(B, classes\), got \(1, 1, 4, 4\)"):
        fit(nn.Conv2d(1, 1, 1), tiny(), Natural(), SHORT, rng())


def test_more_shards_than_images():
    with pytest.raises(ValueError, match="64 shards need as many images, got 48"):
        trained(Recipe(batch=64, shards=64))


# --- validation


def test_validation_measures_when_due_and_always_at_the_end():
    watch = Validation(tiny(seed=1), {}, every=2)
    model, history = trained(replace(SHORT, epochs=3), validation=watch)
    assert [bool(epoch.robust) for epoch in history] == [False, True, True]
    assert history[-1].robust["clean"] == accuracy(model, watch.images)
    assert history[-1].robust["union"] == history[-1].robust["clean"]


def test_validation_sees_the_averaged_weights_and_leaves_the_others():
    recipe = replace(SHORT, averaging=0.9)
    watch = Validation(tiny(seed=1), {})
    model, history = trained(recipe, validation=watch)
    assert torch.equal(weights(model), weights(trained(recipe)[0]))
    assert history[-1].robust["clean"] == accuracy(model, watch.images)
