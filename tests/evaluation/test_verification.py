"""The second word on membership: known excesses, agreement with the sets, planted impostors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.toys import generator
from mpkit.attacks import AttackResult
from mpkit.evaluation import OutsideSet, verified
from mpkit.evaluation.verification import excess, located
from mpkit.sets import L1, L2, Affine, Blend, Linf, PerturbationSet, RotationTranslation, Union

BALLS = (Linf(0.3), L2(1.5), L1(4))
POSES = RotationTranslation(2, 20)
SETS: tuple[PerturbationSet, ...] = (
    *BALLS,
    POSES,
    Union(*BALLS, POSES),
    Affine(POSES, Linf(0.2)),
    Affine(L1(3), L2(1)),
    Blend(POSES, L1(3)),
)


def images(n: int = 5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(n, 1, 6, 6, generator=generator(1)).to(dtype)


@pytest.mark.parametrize("threat", SETS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_samples_of_a_set_have_no_excess(threat: PerturbationSet, dtype: torch.dtype) -> None:
    x = images(40, dtype)
    z = threat.sample(x, generator(2))
    assert float(excess(threat, x, z).max()) <= 1e-6


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_a_ball_s_excess_is_the_share_beyond_its_radius(kind) -> None:
    x = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
    z = torch.zeros_like(x)
    z[:, 0, 0, 0] = torch.tensor([0.18, 0.25])
    assert excess(kind(0.2), x, z).tolist() == pytest.approx([-0.1, 0.25])


def test_pixels_outside_the_box_are_excess() -> None:
    x = torch.full((1, 1, 2, 2), 0.9, dtype=torch.float64)
    z = torch.full_like(x, 0.15)
    assert float(excess(Linf(0.3), x, z)) == pytest.approx(0.05)
    assert float(excess(Linf(0.3), 1 - x, -z)) == pytest.approx(0.05)


def test_poses_have_their_own_bounds_and_zero_bounds_allow_nothing() -> None:
    x = images(3)
    z = torch.tensor([[2.2, 0.0, 0.0], [0.0, 0.0, -25.0], [0.0, 0.0, 0.0]])
    assert excess(POSES, x, z).tolist() == pytest.approx([0.1, 0.25, -torch.inf])
    still = RotationTranslation(0, 20)
    assert excess(still, x, z)[0] == torch.inf


def test_shares_of_an_affine_set_are_counted_against_the_whole_budgets() -> None:
    x = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
    one = torch.zeros_like(x)
    one[:, 0, 0, 0] = 0.2
    w = torch.tensor([0.5, 0.3], dtype=torch.float64)
    over = excess(Affine(Linf(0.4), L1(0.4)), x, (w, one, one * 0))
    assert over.tolist() == pytest.approx([0.0, 0.2])
    over = excess(Affine(Linf(0.4), L1(0.4)), x, (w, one * 0, one))
    assert over.tolist() == pytest.approx([0.0, -0.2])


@given(st.integers(0, 10**6), st.floats(0.2, 3))
@settings(deadline=None, max_examples=40)
def test_excess_agrees_with_contains(seed: int, stretch: float) -> None:
    x = images(dtype=torch.float64)
    for threat in SETS[:4]:
        z = threat.sample(x, generator(seed)) * stretch
        over = excess(threat, x, z)
        clear = over.abs() > 1e-9
        assert torch.equal((over <= 0)[clear], threat.contains(x, z)[clear])


def test_located_names_the_part_of_a_nested_union() -> None:
    x = images(4)
    nested = Union(Union(*BALLS), POSES)
    zero = BALLS[0].zero(x)
    inner = (torch.tensor([2, 0, 1, 0]), (zero, zero, zero))
    z = (torch.tensor([0, 1, 0, 0]), (inner, POSES.zero(x)))
    assert located(nested, z, 4).tolist() == [2, 3, 1, 0]


def found(threat, x: torch.Tensor, z) -> AttackResult:
    return AttackResult(threat.apply(x, z), z, torch.zeros(len(x)))


def test_a_perturbation_outside_its_set_is_refused_with_its_row() -> None:
    x = torch.full((3, 1, 2, 2), 0.5)
    z = torch.zeros_like(x)
    z[2] = 0.3 * (1 + 1e-5)
    with pytest.raises(OutsideSet, match=r"cheat: .* row 2 lies outside linf:0.3: .* 9.97e-06"):
        verified("cheat", Linf(0.3), x, found(Linf(0.3), x, z))


def test_an_image_that_is_not_that_of_its_coordinate_is_refused() -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    z = torch.full_like(x, 0.1)
    claim = found(Linf(0.3), x, z)._replace(image=x + 0.4)
    with pytest.raises(OutsideSet, match="is not what its coordinate gives"):
        verified("cheat", Linf(0.3), x, claim)


def test_nan_in_a_coordinate_is_refused() -> None:
    x = torch.full((1, 1, 2, 2), 0.5)
    with pytest.raises(OutsideSet, match="excess inf"):
        verified("cheat", Linf(0.3), x, found(Linf(0.3), x, x * torch.nan))


def test_rounding_in_float32_is_pulled_in() -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    z = torch.zeros_like(x)
    z[0, 0, 0] = 0.15 * (1 + 2e-6)
    image, kept = verified("pgd", L1(0.3), x, found(L1(0.3), x, z))
    assert kept.all()
    assert torch.equal(image[1], x[1])
    assert float(excess(L1(0.3), x, image.double() - x.double())[0]) <= 1e-6
