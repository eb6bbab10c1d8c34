"""Our attacks through the auditor: nothing is said of them, and the record agrees."""

from __future__ import annotations

import pytest

from mpkit.audit import audit
from mpkit.audit.libraries import subjects
from mpkit.audit.protocol import NORMS

QUICK = {("PGD", "linf"), ("APGD dlr", "l2"), ("SLIDE", "l1"), ("FMN", "linf"), ("Square", "l2")}
OURS = [one for one in subjects("mpkit") if any((one.name, n) in QUICK for n in NORMS)]


@pytest.mark.parametrize("name,norm", sorted(QUICK))
def test_ours_are_clean(name: str, norm: str) -> None:
    kind = NORMS[norm]
    (subject,) = [one for one in OURS if one.name == name and one.kind is kind]
    assert audit(subject, 20, seeds=3).findings == ()
