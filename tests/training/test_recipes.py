"""Recipes: numbers in range, schedules as stated, fingerprints that tell runs apart."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpkit.data import Crop, Flip
from mpkit.training import SGD, Adam, Constant, Recipe, Steps, Triangle
from mpkit.training.recipes import fingerprint


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"lr": 0.0}, "lr must be positive and finite"),
        ({"lr": float("nan")}, "lr must be positive and finite"),
        ({"clip": 0.0}, "clip must be positive, or None"),
        ({"averaging": 1.0}, r"averaging must be in \[0, 1\)"),
        ({"shards": 3}, "shards must be a divisor of the batch, 64"),
    ],
)
def test_recipes_refuse_numbers_out_of_range(change, rule):
    with pytest.raises(ValueError, match=rule):
        Recipe(**change)


def test_schedules_are_what_they_say():
    assert [Steps((0.5, 0.75), 0.1).factor(t) for t in (0, 0.49, 0.5, 0.8)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )
    assert [Triangle(0.2).factor(t) for t in (0.0, 0.1, 0.2, 0.6)] == pytest.approx(
        [0, 0.5, 1, 0.5]
    )
    assert Triangle(0.0).factor(0.0) == 1
    with pytest.raises(ValueError, match="peak"):
        Triangle(1.0)


positive = st.floats(1e-6, 10)
recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 3),
    batch=st.sampled_from([4, 8]),
    lr=st.sampled_from([1, 1.0, 0.1]) | positive,
    optimizer=st.sampled_from([Adam(), Adam(weight_decay=0.1), SGD(), SGD(nesterov=False)]),
    schedule=st.sampled_from([Constant(), Steps(), Steps((0.5, 0.6)), Triangle()]),
    clip=st.none() | positive,
    averaging=st.none() | st.floats(0, 0.9),
    shards=st.sampled_from([1, 2]),
    compute=st.sampled_from([None, torch.bfloat16]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    natural=st.sampled_from([0.0, 0.5]),
    augment=st.sampled_from([(), (Flip(),), (Crop(2),), (Crop(4), Flip()), (Flip(), Crop(4))]),
)


@given(a=recipes, b=recipes)
def test_fingerprints_are_equal_exactly_where_recipes_are(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (a == b)
    assert fingerprint(a) == fingerprint(replace(a))


@given(recipe=recipes, name=st.sampled_from([f.name for f in fields(Recipe)]), other=recipes)
def test_changing_any_field_changes_the_fingerprint(recipe, name, other):
    try:
        changed = replace(recipe, **{name: getattr(other, name)})
    except ValueError:
        return
    if getattr(recipe, name) != getattr(other, name):
        assert fingerprint(changed) != fingerprint(recipe)


def test_fingerprints_stay_the_same_from_release_to_release():
    recipe = Recipe(epochs=2, batch=8, lr=0.25, shards=2)
    assert fingerprint(recipe)[:16] == "5e8aee810240a91e"
    assert fingerprint(torch.arange(3.0)) != fingerprint(torch.arange(3.0).double())
    assert fingerprint(torch.zeros(2, 3)) != fingerprint(torch.zeros(3, 2))
    assert fingerprint(1) != fingerprint("1") != fingerprint([1])
    with pytest.raises(TypeError, match="no form for object"):
        fingerprint(object())
