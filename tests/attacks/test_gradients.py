"""The input gradient leaves no trace on the model and never depends on its switches."""

import pytest
import torch
from torch import nn

from helpers.toys import Linear, generator, linear_problem
from mpkit.attacks import DLR, CrossEntropy, Margin
from mpkit.attacks.gradients import attacking, evaluating, input_gradient


def mixed_modes():
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 3))
    net.train()
    net[1].eval()
    return net.double()


def test_gradient_of_a_linear_model_is_its_weight():
    model, x, y = linear_problem(0)
    seen = input_gradient(model, Margin(), x, y)
    torch.testing.assert_close(seen.gradient, model.weight.detach().expand_as(x))
    torch.testing.assert_close(seen.score, (x * model.weight).flatten(1).sum(1).detach())


@pytest.mark.parametrize("trainable", [True, False])
def test_nothing_is_left_on_the_weights(trainable):
    model, x, y = linear_problem(0)
    model.weight.requires_grad_(trainable)
    with torch.no_grad():
        seen = input_gradient(model, CrossEntropy(), x, y)
    assert seen.gradient.abs().sum() > 0
    assert model.weight.grad is None
    assert model.weight.requires_grad is trainable
    assert not x.requires_grad
    assert not seen.score.requires_grad


def test_existing_gradients_are_left_alone():
    model, x, y = linear_problem(0)
    model.weight.grad = torch.ones_like(model.weight)
    input_gradient(model, CrossEntropy(), x, y)
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))


def test_every_submodule_gets_its_own_mode_back():
    net = mixed_modes()
    modes = [m.training for m in net.modules()]
    assert len(set(modes)) == 2
    with evaluating(net):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net.modules()] == modes
    with pytest.raises(RuntimeError, match="stop"), evaluating(net):
        raise RuntimeError("stop")
    assert [m.training for m in net.modules()] == modes


def test_weights_ask_for_no_gradient_while_an_attack_runs_and_as_before_after_it():
    net = mixed_modes()
    net[1].weight.requires_grad_(False)
    asked = [weight.requires_grad for weight in net.parameters()]
    assert len(set(asked)) == 2
    with pytest.raises(RuntimeError, match="stop"), attacking(net):
        assert not any(weight.requires_grad for weight in net.parameters())
        assert not any(module.training for module in net.modules())
        raise RuntimeError("stop")
    assert [weight.requires_grad for weight in net.parameters()] == asked


def test_eval_mode_does_not_touch_batch_statistics():
    net = mixed_modes()
    net.train()
    before = net[1].running_mean.clone()
    x = torch.rand(5, 1, 3, 4, dtype=torch.float64, generator=generator())
    y = torch.zeros(5, dtype=torch.int64)
    first = input_gradient(net, CrossEntropy(), x, y).gradient
    assert torch.equal(first, input_gradient(net, CrossEntropy(), x, y).gradient)
    assert torch.equal(net[1].running_mean, before)


def test_wrong_logits_are_refused():
    x, y = torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"must return logits of shape \(2, classes\)"):
        input_gradient(lambda x: x.flatten(), CrossEntropy(), x, y)
    with pytest.raises(ValueError, match="at least 3 classes, the model gives 2"):
        input_gradient(Linear(torch.ones(1, 2, 2), classes=2), DLR(), x, y)
    with pytest.raises(ValueError, match="at least 6 classes, the model gives 5"):
        input_gradient(Linear(torch.ones(1, 2, 2)), CrossEntropy(), x, y + 5)
