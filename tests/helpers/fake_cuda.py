"""A log of what a recording asks of CUDA, on a machine that has none."""

from __future__ import annotations

from contextlib import contextmanager

import torch

from mpkit.core import cuda_graphs


class Stream:
    """Waits for nothing."""

    def wait_stream(self, other):
        pass


class Graph:
    """Has a pool of memory: that of the graph it shares with, or its own."""

    shared = None

    def __init__(self, log):
        self.log, self.own, self.known = log, object(), []

    def pool(self):
        return self.shared or self.own

    def register_generator_state(self, rng):
        self.known.append(rng)

    def replay(self):
        self.log.append("replay")


@contextmanager
def cuda(patch):
    """Within, recordings are made of the work itself; gives what was asked, in order."""
    log = []

    @contextmanager
    def nothing(*_):
        yield

    @contextmanager
    def graph(made, pool=None, stream=None, capture_error_mode="global"):
        log.append(("capture", pool, stream, capture_error_mode))
        made.shared = pool
        yield

    outside = Stream()
    asked = {
        "device": nothing,
        "stream": nothing,
        "Stream": Stream,
        "graph": graph,
        "CUDAGraph": lambda: Graph(log),
        "current_stream": lambda: outside,
        "set_stream": lambda stream: None,
        "get_sync_debug_mode": lambda: "default",
        "set_sync_debug_mode": lambda mode: log.append(("waiting is", mode)),
    }
    for name, stand_in in asked.items():
        patch.setattr(torch.cuda, name, stand_in)
    patch.setattr(
        torch._C, "_cuda_clearCublasWorkspaces", lambda: log.append("cleared"), raising=False
    )
    patch.setattr(cuda_graphs, "_LIVE", type(cuda_graphs._LIVE)())
    yield log
