"""Networks: any size and type, weights from the generator alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpkit.core.devices import resolve_device
from mpkit.models import NETWORKS, Normalize, paper_mnist, parameter_count, small_cnn, small_resnet


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_normalize_is_the_formula_per_channel():
    x = torch.rand(2, 3, 4, 5, generator=rng(), dtype=torch.float64)
    out = Normalize((0.5, 0.25, 0.0), (0.5, 2.0, 1.0)).double()(x)
    torch.testing.assert_close(out[:, 0], (x[:, 0] - 0.5) * 2)
    torch.testing.assert_close(out[:, 1], (x[:, 1] - 0.25) / 2)
    assert torch.equal(out[:, 2], x[:, 2])
    with pytest.raises(ValueError, match="std must be positive"):
        Normalize((0.5,), (0.0,))


def test_the_residual_networks_are_those_of_the_literature_in_size():
    shapes = {}
    for name in ("small_resnet", "preact_resnet18"):
        model = NETWORKS[name]((3, 32, 32), 10, rng())
        seen = [tuple(layer.weight.shape[:2]) for layer in model.modules() if is_conv(layer)]
        shapes[name] = (len(seen), seen[0], seen[-1], parameter_count(model))
    assert shapes["preact_resnet18"] == (20, (64, 3), (512, 512), 11_176_970)
    assert shapes["small_resnet"] == (9, (16, 3), (64, 32), 77_706)


def is_conv(layer):
    return isinstance(layer, torch.nn.Conv2d)


def test_a_small_residual_block_begins_as_its_shortcut():
    model = small_resnet((3, 8, 8), 10, rng())
    x = torch.rand(2, 3, 8, 8, generator=rng())
    stem = model[1](model[0](x))
    assert torch.equal(model[2](stem), stem)
    halved = model[3](stem)
    assert torch.equal(halved, model[3].shortcut(stem.relu())) and halved.shape == (2, 32, 2, 2)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(4, 64), st.integers(4, 64)),
    classes=st.integers(2, 12),
    name=st.sampled_from(sorted(set(NETWORKS) - {"preact_resnet18"})),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_network_takes_every_shape_and_type(shape, classes, name, dtype):
    model = NETWORKS[name](shape, classes, rng()).to(dtype)
    out = model(torch.rand(2, *shape, dtype=dtype))
    assert out.shape == (2, classes) and out.dtype == dtype


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_weights_come_from_the_generator_alone(name):
    state = torch.random.get_rng_state()
    first, second, other = (NETWORKS[name]((1, 8, 8), 10, rng(s)) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)  # the global one is untouched
    assert torch.equal(flat(first), flat(second))
    assert not torch.equal(flat(first), flat(other))
    assert flat(first).isfinite().all() and flat(first).dtype == torch.float32
    assert torch.equal(flat(first).double(), flat(first.double()))


def test_weights_follow_hes_law():
    weight = paper_mnist((1, 28, 28), 10, rng())[7].weight.detach().double()
    assert weight.abs().max() <= (6 / 3136) ** 0.5
    assert abs(weight.var().item() / (2 / 3136) - 1) < 0.01


def test_the_paper_network_has_the_papers_size():
    model = paper_mnist((1, 28, 28), 10, rng())
    assert parameter_count(model) == 832 + 51264 + 3136 * 1024 + 1024 + 10250


@pytest.mark.parametrize("shape", [(1, 8), (0, 8, 8), (1, 3, 8), (1, 8, 2)])
def test_shapes_that_cannot_be(shape):
    with pytest.raises(ValueError, match="small_cnn: shape must be"):
        small_cnn(shape, 10, rng())


def test_one_class_is_no_problem_to_solve():
    with pytest.raises(ValueError, match="classes must be at least 2, got 1"):
        small_cnn((1, 8, 8), 1, rng())


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:", "cuda:x", "cpu:0:1", ""):
        with pytest.raises(ValueError, match="use auto, cpu, cuda or cuda:1"):
            resolve_device(name)
    with pytest.raises(ValueError, match="it has no float64"):
        resolve_device("mps")
    with pytest.raises(ValueError, match=r"cuda:99 was asked for.*take 'auto' or 'cpu'"):
        resolve_device("cuda:99")
