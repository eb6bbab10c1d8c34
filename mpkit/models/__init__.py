"""Networks, their weights on disk, and wrappers that change how they run."""

from mpkit.models.cnn import (
    NETWORKS,
    front_in,
    front_of,
    network,
    paper_mnist,
    parameter_count,
    small_cnn,
    small_mlp,
)
from mpkit.models.layers import DeadZone, Normalize
from mpkit.models.loading import load_model
from mpkit.models.rank_zone import RankRule, RankZone
from mpkit.models.resnet import preact_resnet18, small_resnet
from mpkit.models.weights import read_weights, write_weights
from mpkit.models.wrappers import ChannelsLast, Logits, LowPrecision, OwnInput, QueryCounter

__all__ = [
    "NETWORKS",
    "ChannelsLast",
    "DeadZone",
    "Logits",
    "LowPrecision",
    "Normalize",
    "OwnInput",
    "QueryCounter",
    "RankRule",
    "RankZone",
    "front_in",
    "front_of",
    "load_model",
    "network",
    "paper_mnist",
    "parameter_count",
    "preact_resnet18",
    "read_weights",
    "small_cnn",
    "small_mlp",
    "small_resnet",
    "write_weights",
]
