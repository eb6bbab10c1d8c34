"""One small training run as a program of its own, for the tests that kill it or start two."""

import sys
import time
from pathlib import Path

import torch
from torch import nn

from mpkit.attacks import PGD
from mpkit.core.progress import Quiet
from mpkit.data import Images
from mpkit.models import small_cnn
from mpkit.sets import L2, Linf
from mpkit.training import (
    Average,
    Checkpoints,
    RadiusWarmup,
    Recipe,
    Validation,
    data_parallel,
    fit,
)

ATTACKS = {"linf": PGD(Linf(0.1), steps=2), "l2": PGD(L2(0.5), steps=2)}


class Slow(Quiet):
    """Leaves time to be killed in."""

    def advance(self, steps, note):
        time.sleep(0.05)


def normalized(shape, classes, rng):
    """The small network with batch normalization behind its first convolution."""
    layers = list(small_cnn(shape, classes, rng))
    return nn.Sequential(*layers[:2], nn.BatchNorm2d(layers[1].out_channels), *layers[2:])


NETWORKS = {"small_cnn": small_cnn, "normalized": normalized}


def job(folder: Path | None, network="small_cnn", progress=None):
    """Train; returns the network and the history."""
    clouds = torch.Generator().manual_seed(7)
    x = torch.rand(400, 1, 8, 8, generator=clouds, dtype=torch.float64)
    images = Images(x, (x.mean(dim=(1, 2, 3)) * 4).long(), tuple("abcd"), "clouds")
    rng = torch.Generator().manual_seed(
        8 + data_parallel.rank()
    )  # processes must agree by themselves
    model = NETWORKS[network](images.shape, 4, rng).double()
    scheme = RadiusWarmup(Average(tuple(ATTACKS.values())), (0.5,))
    share = 0.5 if network == "normalized" else 0.0
    recipe = Recipe(epochs=4, batch=16, averaging=0.98, clip=1.0, shards=2, natural=share)
    validation = Validation(images.first(40), {"linf": ATTACKS["linf"]}, every=2)
    keep = Checkpoints(folder, seconds=0.0) if folder else None
    return model, fit(model, images, scheme, recipe, rng, progress, validation, keep)


def main() -> None:
    """Run the job: folder of its checkpoints, name of the result, network."""
    torch.set_num_threads(1)
    with data_parallel.joined(torch.device("cpu")):
        model, history = job(Path(sys.argv[1]), sys.argv[3], Slow())
        if data_parallel.rank() == 0:
            facts = [data_parallel.world(), history[-1].robust]
            torch.save([model.state_dict(), *facts], Path(sys.argv[2]))


if __name__ == "__main__":
    main()
