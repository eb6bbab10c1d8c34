"""Every set, attack and scheme: one row each, from which tests/laws take their cases.

A new kind gets its row here, and with it every law: feasibility, idempotence, the linear optimum,
no trace on the model, pieces, no wait for a device, recordability, targets, resume.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from helpers.toys import generator, relu_net
from mpkit.attacks import (
    APGD,
    DLR,
    FMN,
    MSD,
    PGD,
    SLIDE,
    AffinePGD,
    Attack,
    Batched,
    BehindZone,
    BelowRank,
    Boundary,
    BoundaryStart,
    Clean,
    Falling,
    GreedyPixels,
    Grid,
    GridThenAPGD,
    HopSkipJump,
    LeastNorm,
    Margin,
    MultiTargeted,
    Pointwise,
    Restarts,
    SpatialPGD,
    Square,
    StraightThrough,
    UntilBroken,
    WholePixels,
    Worst,
    WorstOfK,
)
from mpkit.attacks.least_norm import PrimalDual, ShrinkingBall
from mpkit.masking import NES, TransferPGD
from mpkit.models import RankRule
from mpkit.sets import (
    L0,
    L1,
    L2,
    Affine,
    BehindDeadZone,
    Blend,
    Linf,
    PerturbationSet,
    RotationTranslation,
    Union,
)
from mpkit.training import (
    Average,
    Balanced,
    LogitPairing,
    Max,
    Natural,
    RadiusWarmup,
    Random,
    Scheme,
    Single,
)

POSES = RotationTranslation(1, 20)
IMAGES = 6

SETS: dict[str, PerturbationSet] = {
    "linf": Linf(0.2),
    "l2": L2(0.8),
    "l1": L1(2.0),
    "l0": L0(3),
    "linf of rows": Linf(torch.linspace(0.05, 0.3, IMAGES)),
    "rt": POSES,
    "union": Union(Linf(0.2), POSES, L1(2.0)),
    "affine of balls": Affine(L1(2.0), Linf(0.2)),
    "affine of poses": Affine(POSES, L2(0.8)),
    "blend": Blend(L2(0.8), Linf(0.2)),
    "zone": BehindDeadZone(L1(1.5), 0.2),
}


@dataclass(frozen=True)
class Row:
    """An attack, and what it promises.

    Args:
        attack: with few steps.
        strong: the same with as many as it takes on a linear model.
        optimum: share of the greatest possible gain there that it reaches, 0 for no promise.
        waits: it asks the host on its way, or asks of each row another thing, so that it is not
            recorded.
        retargets: its loss can be replaced by one with a target.
    """

    attack: Attack
    strong: Attack | None = None
    optimum: float = 0.0
    waits: bool = False
    retargets: bool = True


BALLS = Union(Linf(0.2), L2(0.5), L1(1.0))
GUIDE = relu_net(7, inputs=16, classes=4)

ATTACKS: dict[str, Row] = {
    "pgd linf": Row(PGD(Linf(0.2), 5), PGD(Linf(0.2), 60, loss=Margin()), 0.998),
    "pgd l2": Row(
        PGD(L2(0.5), 5, loss=Margin()), PGD(L2(0.5), 60, 0.25, Margin(), schedule=Falling()), 0.998
    ),
    "pgd l1": Row(PGD(L1(1.0), 5, start=Clean(), schedule=Falling())),
    "pgd of rows": Row(PGD(Linf(torch.full((IMAGES,), 0.1)), 5, step=0.05)),
    "slide": Row(SLIDE(L1(1.0), 5, quantile=0.8, loss=DLR())),
    "apgd linf": Row(APGD(Linf(0.2), 12), APGD(Linf(0.2), 60, Margin()), 0.9999),
    "apgd l2": Row(APGD(L2(0.5), 12, DLR()), APGD(L2(0.5), 60, Margin()), 0.9999),
    "apgd l1": Row(APGD(L1(1.0), 11), APGD(L1(2.0), 60, Margin()), 0.96),
    "msd": Row(MSD(BALLS, 3)),
    "fmn": Row(FMN(L2(0.5), 5)),
    "fmn from the border": Row(FMN(Linf(0.2), 3, start=BoundaryStart(1, 2))),
    "primal dual l1": Row(PrimalDual(L1(1.0), 5)),
    "primal dual l2": Row(PrimalDual(L2(0.5), 5)),
    "shrinking ball": Row(ShrinkingBall(Linf(0.2), 5)),
    "least norm linf": Row(LeastNorm(Linf(0.2), 100, targets=2, radii=2), retargets=False),
    "least norm l1": Row(LeastNorm(L1(1.0), 100, targets=1, radii=2), retargets=False),
    "square linf": Row(Square(Linf(0.2), 5), Square(Linf(0.2), 1500), 0.9999),
    "square l2": Row(Square(L2(0.5), 5)),
    "square l1": Row(Square(L1(1.0), 5)),
    "greedy pixels l1": Row(
        GreedyPixels(L1(1.0), 3, 8, 1, polish=2), GreedyPixels(L1(2.0), swaps=0), 0.98
    ),
    "greedy pixels l2": Row(GreedyPixels(L2(0.8), 3, 8, 1, polish=2)),
    "greedy pixels l0": Row(GreedyPixels(L0(2), 3, 8, 1, polish=2), GreedyPixels(L0(3)), 0.9999),
    "greedy pixels blind": Row(GreedyPixels(L1(1.0), 3, 8, 1, level=None)),
    "grid": Row(Grid(POSES, 2, 3)),
    "spatial pgd": Row(SpatialPGD(POSES, 3)),
    "affine of balls": Row(AffinePGD(Affine(L1(1.0), Linf(0.1)), 4)),
    "affine of poses": Row(AffinePGD(Affine(POSES, Linf(0.1)), 4)),
    "blend": Row(AffinePGD(Blend(L2(0.5), Linf(0.1)), 4)),
    "grid then apgd": Row(GridThenAPGD(Affine(POSES, L2(0.5)), steps=3, shifts=2, angles=2)),
    "worst of k": Row(WorstOfK(Union(POSES, Linf(0.2)), 3)),
    "worst": Row(Worst((PGD(Linf(0.2), 3), SpatialPGD(POSES, 2)))),
    "restarts": Row(Restarts(APGD(L1(1.0), 3), 2), retargets=False),
    "many targets": Row(MultiTargeted(APGD(Linf(0.2), 3, DLR()), 2), retargets=False),
    "until broken": Row(UntilBroken(PGD(L2(0.5), 6), 2), waits=True, retargets=False),
    "batched": Row(Batched(PGD(L2(0.5), 3), 4), retargets=False),
    "transfer": Row(TransferPGD(L2(0.5), 3, guide=GUIDE)),
    "nes": Row(NES(L2(0.5), 3, directions=4)),
    "behind a zone": Row(BehindZone(PGD(L2(0.5), 3), 0.2), retargets=False),
    "behind a zone, whole pixels": Row(BehindZone(APGD(L1(1.5), 3), 0.2, L1(1.2)), retargets=False),
    "below a rank": Row(
        BelowRank(PGD(Linf(0.2), 3), Linf(0.2), RankRule(5)), waits=True, retargets=False
    ),
    "below a rank, paid for": Row(
        BelowRank(APGD(L1(1.0), 3), L1(1.5), RankRule(5), 0.1), waits=True, retargets=False
    ),
    "whole pixels": Row(WholePixels(L1(1.0), 0.2, 3)),
    "straight through a zone": Row(StraightThrough(PGD(Linf(0.2), 3), 0.1), retargets=False),
    "boundary": Row(Boundary(L2(0.5), 5, tries=4), waits=True),
    "hop skip jump": Row(HopSkipJump(Linf(0.2), 2, tries=4, evaluations=5), waits=True),
    "pointwise": Row(Pointwise(L1(1.0), 2, tries=4), waits=True),
}

LAUNCHES = {
    "pgd linf": 229,
    "pgd l2": 987,
    "pgd l1": 1961,
    "pgd of rows": 241,
    "slide": 1291,
    "apgd linf": 680,
    "apgd l2": 3958,
    "apgd l1": 4098,
    "msd": 1146,
    "fmn": 1269,
    "fmn from the border": 388,
    "square linf": 293,
    "square l2": 1301,
    "square l1": 1313,
    "greedy pixels l1": 2481,
    "greedy pixels l2": 2465,
    "greedy pixels l0": 1954,
    "greedy pixels blind": 1371,
    "grid": 339,
    "spatial pgd": 506,
    "affine of balls": 8564,
    "affine of poses": 19416,
    "blend": 2722,
    "grid then apgd": 1319,
    "worst of k": 304,
    "worst": 648,
    "restarts": 2882,
    "many targets": 695,
    "batched": 1260,
    "transfer": 683,
    "nes": 676,
}
"""Most kernels that an attack's few steps launch on a GPU, network included: lower, never raise."""

NEAR = PGD(Linf(0.1), 2)
SPARSE = SLIDE(L1(0.8), 2, quantile=0.9)
SCHEMES: dict[str, Scheme] = {
    "natural": Natural(),
    "single": Single(NEAR),
    "average": Average((NEAR, SPARSE)),
    "max": Max((NEAR, SPARSE)),
    "random": Random((NEAR, SPARSE)),
    "balanced": Balanced((("linf", NEAR), ("l1", SPARSE))),
    "warm up": RadiusWarmup(Single(NEAR), (0.5,)),
    "logit pairing": LogitPairing(APGD(L2(0.5), 2), SpatialPGD(POSES, 2)),
}


def problem(
    seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A random network, and images with walls that it gets right."""
    model = relu_net(seed, inputs=16, classes=4, dtype=dtype)
    x = torch.rand(IMAGES, 1, 4, 4, generator=generator(seed), dtype=torch.float64)
    x = torch.where(x < 0.15, 0, torch.where(x > 0.85, 1, x)).to(dtype)
    with torch.no_grad():
        return model, x, model(x).argmax(1)
