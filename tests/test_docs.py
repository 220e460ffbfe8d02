"""The code blocks of the documentation run as they are printed."""

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from helpers.data import forget_registered_sets, keep_loggers
from mic_det.data.minicity import make_minicity

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def blocks(page):
    """(line, code) of each ```python block."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, m.start(1)), m[1]) for m in found]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A current folder with the configs of the repository and a miniature city of few images."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    make_minicity(tmp_path / "datasets/minicity", 6, 2, (256, 128), seed=3, workers=1, progress=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", "datasets")
    before = set(META_ARCH_REGISTRY._obj_map)
    with forget_registered_sets(), keep_loggers():
        yield tmp_path
    for name in set(META_ARCH_REGISTRY._obj_map) - before:
        META_ARCH_REGISTRY._obj_map.pop(name)


def test_the_blocks_of_extending(checkout, capsys):
    page, namespace = ROOT / "docs/extending.md", {"__name__": "extending"}
    found = blocks(page)
    assert len(found) >= 7
    for line, code in found:
        # line numbers of errors are the page's
        exec(compile("\n" * line + code, str(page), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "['source', 'source', 'target', 'target']" in printed and "source/loss_cls" in printed
    assert "True 0.5" in printed
    for run in ("default_trainer", "stripes"):
        folder = checkout / "output/extending" / run
        assert int(torch.load(folder / "model_final.pth", weights_only=True)["model"]["num_steps"]) == 2
        assert json.loads((folder / "metrics.json").read_text().splitlines()[-1])["source/loss_cls"] > 0
