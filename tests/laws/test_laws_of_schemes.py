"""What every training scheme and network must obey, from the one table."""

import pytest
import torch
from torch import nn

from helpers import every
from helpers.small_runs import rng
from helpers.stand_ins import ghost, there
from helpers.toys import generator
from mpkit.data import Crop, Flip, Images
from mpkit.models import NETWORKS
from mpkit.training import SGD, Natural, Recipe
from mpkit.training.recipes import fingerprint
from mpkit.training.run import Run

each = pytest.mark.parametrize("scheme", every.SCHEMES.values(), ids=every.SCHEMES)


@each
def test_one_loss_for_each_example_with_gradients_to_the_weights(scheme):
    model, x, y = every.problem()
    model.train()
    losses = scheme(model, x, y, generator(3))
    assert losses.shape == y.shape and losses.isfinite().all() and model.training
    gradients = torch.autograd.grad(losses.sum(), list(model.parameters()))
    assert all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)
    assert torch.equal(losses, scheme(model, x, y, generator(3)))
    assert all(p.grad is None for p in model.parameters())


@each
def test_a_scheme_is_one_for_every_epoch_and_batch(scheme):
    model, x, y = every.problem()
    in_epoch = scheme.at(0, {})
    settled = in_epoch.settled(generator(3))
    assert settled(model, x, y, generator(3)).shape == y.shape
    assert fingerprint(settled) == fingerprint(in_epoch.settled(generator(3)))


def test_schemes_have_fingerprints_that_tell_them_apart():
    prints = [fingerprint(scheme) for scheme in every.SCHEMES.values()]
    assert len(set(prints)) == len(prints)


@each
def test_no_training_step_waits_for_the_device(scheme):
    """With augmentation, clipping, a running mean, 16 bits and another layout."""
    recipe = Recipe(
        epochs=1,
        batch=4,
        optimizer=SGD(),
        clip=1.0,
        averaging=0.9,
        compute=torch.bfloat16,
        layout=torch.channels_last,
        augment=(Crop(1), Flip()),
    )
    images = Images(torch.rand(8, 1, 8, 8, generator=rng()), torch.arange(8), tuple("abcdefgh"), "")
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 8))
    scheme = scheme.at(1, {}).settled(generator())
    run = Run(model, images, scheme, recipe, 0)
    rows = torch.arange(4)
    with ghost() as patch:
        x, y = torch.empty(8, 1, 8, 8, device="cuda"), torch.empty(8, 1, device="cuda").long()[:, 0]
        there(model)
        run.weights[:] = model.parameters()
        object.__setattr__(run.images, "x", x)
        object.__setattr__(run.images, "y", y)
        run.optimizer = recipe.optimizer.build(run.weights, 0.1)
        run.average = [torch.empty_like(one) for one in run.weights]
        run.losses, rows = torch.empty(2, device="cuda"), torch.empty(4, device="cuda").long()

        def backward(loss):
            for weight in run.weights:
                weight.grad = torch.empty_like(weight)

        patch.setattr(torch.autograd, "backward", backward)
        run._step(scheme, 0, 0, rows)


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_network_is_what_its_generator_says_and_can_be_trained(build):
    model = build((1, 8, 8), 4, generator(1))
    again = build((1, 8, 8), 4, generator(1))
    state = model.state_dict()
    assert all(torch.equal(state[name], t) for name, t in again.state_dict().items())
    x, y = torch.rand(5, 1, 8, 8, generator=generator()), torch.arange(5) % 4
    logits = model.eval()(x)
    assert logits.shape == (5, 4) and logits.isfinite().all()
    torch.testing.assert_close(model(x[:2]), logits[:2], rtol=1e-4, atol=1e-4)  # no batch-mates
    losses = Natural()(model.train(), x, y, generator())
    assert all(g is not None for g in torch.autograd.grad(losses.sum(), list(model.parameters())))
