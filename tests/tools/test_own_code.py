"""``--import MODULE``: a model of a user's own, derived from MIC, with every tool; and modules that are refused."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from helpers.data import (
    forget_registered_sets,
    load,
    refusal_here,
    run_tool_here,
    tiny_config,
    write_config,
    write_two_domains,
)
from mic_det import ConfigError
from mic_det.benchmark.memory import peak_memory
from mic_det.benchmark.synthetic import synthetic_batch
from mic_det.benchmark.variants import make_variant
from mic_det.utils.own_code import import_own_code

pytestmark = pytest.mark.slow

OWN = """
from detectron2.modeling import META_ARCH_REGISTRY
from mic_det import MIC

@META_ARCH_REGISTRY.register()
class OwnMIC(MIC):
    def forward(self, batched_inputs):
        outputs = super().forward(batched_inputs)
        if self.training:
            outputs["own/loss"] = 0.125 + 0 * sum(p.sum() for p in self.student.roi_heads.parameters())
        return outputs
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The current folder of a user: data, a config, own_mic.py, and OwnMIC trained for two steps by train_net.py."""
    root = tmp_path_factory.mktemp("own")
    write_two_domains(root)
    (root / "own_mic.py").write_text(OWN)
    keys = {
        "MODEL__META_ARCHITECTURE": "OwnMIC", "DATASETS__TARGET": ["target_train"], "SOLVER__MAX_ITER": 2,
        "MODEL__MIC__PSEUDO_BOXES": {"SCORE_THRESHOLD": 0.3},
    }  # fmt: skip
    write_config(root / "own.yaml", tiny_config(root, root / "run", **keys))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "path", list(sys.path))
        run_tool_here("train_net.py", *own(root), monkeypatch=patch)
        yield root
    sys.modules.pop("own_mic", None)
    META_ARCH_REGISTRY._obj_map.pop("OwnMIC", None)


@pytest.fixture
def run(folder, monkeypatch):
    def run(name, *args):
        run_tool_here(name, *own(folder), *args, monkeypatch=monkeypatch)

    monkeypatch.chdir(folder)
    return run


def own(folder):
    return ["--config-file", folder / "own.yaml", "--import", "own_mic"]


def weights(folder):
    return ["MODEL.WEIGHTS", folder / "run/model_final.pth"]


def test_it_is_trained_with_its_own_loss_and_evaluated(folder, run, tmp_path):
    lines = [json.loads(line) for line in (folder / "run/metrics.json").read_text().splitlines()]
    values = {k: v for line in lines for k, v in line.items()}
    assert values["own/loss"] == 0.125 and "masked/loss_cls" in values
    state = torch.load(folder / "run/model_final.pth", weights_only=True)["model"]
    assert int(state["num_steps"]) == 2 and any(k.startswith("teacher.") for k in state)
    run("train_net.py", "--eval-only", *weights(folder), "OUTPUT_DIR", tmp_path)
    assert (tmp_path / "inference/target_val/coco_instances_results.json").is_file()


def test_predict(folder, run, tmp_path):
    more = ["--input", folder / "target/images/val_0.png", "--format", "coco", "--confidence-threshold", 0.05]
    run("predict.py", "--output", tmp_path, *more, *weights(folder))
    assert json.loads((tmp_path / "predictions.json").read_text())["images"]


def test_visualize(folder, run, tmp_path):
    run("visualize_pseudo_boxes.py", "--output", tmp_path, "--num-images", 1, *weights(folder))
    assert (tmp_path / "contact_sheet.png").is_file()


def test_export(folder, run, tmp_path):
    run("export.py", "--output", tmp_path / "teacher.pth", *weights(folder))
    assert "GeneralizedRCNN" in (tmp_path / "teacher.yaml").read_text()


def test_show_context(folder, run, tmp_path):
    file = f"own={folder / 'run/model_final.pth'}"
    run("show_context.py", "--output", tmp_path, "--ratios", 0.5, "--images", 1, "--weights", file)
    assert "own" in json.loads((tmp_path / "curve.json").read_text())["checkpoints"]


def test_benchmark_times_the_models_own_step(folder, run, tmp_path):
    more = ["--output", tmp_path, "--repeats", 1, "--only", "mic", "--no-memory", "--no-data", "--synthetic"]
    run("benchmark.py", *more)
    assert json.loads((tmp_path / "benchmark.json").read_text())["steps"]["seconds"]["mic"]
    with forget_registered_sets():
        cfg = load(tmp_path, {**tiny_config(folder), "MODEL": _model(folder)})
        batch = synthetic_batch(cfg, (64, 96), torch.Generator().manual_seed(0))
        variant = make_variant(cfg, "mic", [batch])
        assert type(variant.model).__name__ == "OwnMIC"
        assert peak_memory(cfg, "teacher", (64, 96), steps=1, modules=["own_mic"])["peak"] > 0


def _model(folder):
    return {**tiny_config(folder)["MODEL"], "META_ARCHITECTURE": "OwnMIC"}


def test_the_check_of_data_sets(folder, monkeypatch, capsys):
    program = Path(__file__).parents[2] / "datasets/check.py"
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["check.py", *map(str, own(folder)), "--workers", "1"])
    with forget_registered_sets(), pytest.raises(SystemExit) as caught:
        runpy.run_path(str(program), run_name="__main__")
    assert caught.value.code == 0, capsys.readouterr().out


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "name, content, parts",
    [
        ("absent_module", None, ["--import absent_module", "no module absent_module"]),
        ("absent_package.inner", None, ["--import absent_package.inner", "no module absent_package"]),
        ("own_file.py", "", ["--import own_file.py", "name of a module", "my_model for my_model.py"]),
        ("needs_more", "import absent_dependency", ["needs_more.py, line 1", "absent_dependency"]),
        ("broken_syntax", "x = (1", ["--import broken_syntax", "broken_syntax.py, line 1"]),
        ("broken_code", "x = 1\nprint(y)", ["broken_code.py, line 2", "NameError", "'y'"]),
        ("registered_twice", OWN.replace("OwnMIC", "MIC"), ["registered_twice.py, line 5", "already registered"]),
        ("wants_to_exit", "import sys\nsys.exit(3)", ["wants_to_exit.py, line 2", "SystemExit"]),
    ],
)
def test_a_module_that_cannot_be_imported(tmp_path, monkeypatch, name, content, parts):
    if content is not None:
        (tmp_path / f"{name.removesuffix('.py')}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ConfigError) as caught:
        import_own_code([name])
    message = str(caught.value)
    assert all(part in message for part in parts) and "\n" not in message, message


def test_tools_end_with_one_line(folder, monkeypatch):
    args = ["--config-file", folder / "own.yaml", "--import", "not_there"]
    for name in ("train_net.py", "benchmark.py"):
        assert "--import not_there" in refusal_here(name, *args, monkeypatch=monkeypatch)


def test_without_the_import_the_message_tells_of_it(folder, monkeypatch):
    kept = META_ARCH_REGISTRY._obj_map.pop("OwnMIC")
    try:
        message = refusal_here("train_net.py", "--config-file", folder / "own.yaml", monkeypatch=monkeypatch)
    finally:
        META_ARCH_REGISTRY._obj_map["OwnMIC"] = kept
    assert "OwnMIC" in message and "--import" in message
