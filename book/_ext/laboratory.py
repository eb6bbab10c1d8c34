"""The data of the laboratory: weights of small networks and test images, as a script.

A script is read from a disk as well as from a server, which JSON is not. The weights were rounded
to half precision when they were trained, so sixteen bits hold them exactly.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

PAGE = "book/laboratory"
NETWORKS = ("natural", "linf", "l2", "l1", "avg", "max")
IMAGES = 200


def content() -> dict[str, Any]:
    """Networks as texts of base64, one for each tensor; images, labels, and usual radii."""
    import torch

    from mpkit import data, sets
    from mpkit.studies import zoo

    test = data.load("digits", "test").first(IMAGES)
    usual = sets.usual("digits", test.shape)
    packed = {}
    for name in NETWORKS:
        tensors = [one.detach() for one in zoo.digits(name).parameters()]
        if not all(torch.equal(one.half().to(one), one) for one in tensors):
            raise ValueError(f"laboratory: sixteen bits do not hold the weights of {name!r}")
        raw = (one.half().numpy().astype("<f2").tobytes() for one in tensors)
        packed[name] = [base64.b64encode(part).decode() for part in raw]
    return {
        "networks": packed,
        "images": test.x.flatten(1).double().tolist(),
        "labels": test.y.tolist(),
        "radii": {norm: float(usual[norm].eps) for norm in ("linf", "l2", "l1")}  # type: ignore[attr-defined]
        | {"rt": [float(usual["rt"].pixels), float(usual["rt"].degrees)]},  # type: ignore[attr-defined]
    }


def write_data(app: Sphinx, error: Exception | None) -> None:
    """Write the script beside the others."""
    if error is None and PAGE in app.env.found_docs and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / "mp-lab-data.js"
        text = json.dumps(content(), separators=(",", ":"))
        target.write_text(f"window.MP_LAB_DATA={text};\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write when all pages are there."""
    app.connect("build-finished", write_data)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
