"""Networks that nobody here wrote, with random weights, from the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpkit.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NETS = """
import torch, torchvision
def seeded(make, **how):
    torch.manual_seed(0)
    return make(**how)
def resnet18(): return seeded(torchvision.models.resnet18)
def mobilenet_v3_small(): return seeded(torchvision.models.mobilenet_v3_small)
def vit_b_16(): return seeded(torchvision.models.vit_b_16, image_size=32, num_classes=10)
def timm_model():
    import timm
    return seeded(timm.create_model, model_name="resnet10t")
@torch.no_grad()
def right(make):
    x = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return [(x, make().eval()(x).argmax(1))]
def of_resnet18(): return right(resnet18)
def of_mobilenet_v3_small(): return right(mobilenet_v3_small)
def of_vit_b_16(): return right(vit_b_16)
def of_timm_model(): return right(timm_model)
"""


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "real_nets.py").write_text(NETS, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "threat"),
    [
        ("resnet18", "linf:0.001 + rt:1px,3deg"),
        ("mobilenet_v3_small", "l1:0.01"),
        ("vit_b_16", "linf:0.001"),
        ("timm_model", "l2:0.001"),
    ],
)
def test_a_real_network_is_evaluated(there: Path, name: str, threat: str) -> None:
    call = ["evaluate", "--model", f"real_nets:{name}", "--data", f"real_nets:of_{name}"]
    done = CliRunner().invoke(
        main, [*call, "--points", "2", "--budget", "quick", "--threat", threat]
    )
    assert done.exit_code == 0, done.output
    assert re.search(r"clean +100\.0 %", done.stdout), done.stdout
    assert "2 examples" in done.stdout


def test_a_real_network_is_examined(there: Path) -> None:
    """Of them the quickest; the others take minutes."""
    call = ["doctor", "--model", "real_nets:timm_model", "--data", "real_nets:of_timm_model"]
    done = CliRunner().invoke(main, [*call, "--points", "10", "--threat", "linf:0.001"])
    assert done.exit_code == 0, done.output
    assert "10 of 10 images are right without an attack" in done.stdout
    assert re.search(r"^  linf\S*: (no sign|suspicious);", done.stdout, re.MULTILINE), done.stdout
