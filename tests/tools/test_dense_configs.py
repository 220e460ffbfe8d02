"""The shipped configs of RetinaNet, FCOS and Cascade R-CNN, small and short, through the tools that users run."""

import json
from pathlib import Path

import cv2
import pytest
import torch

from helpers_data import CLASSES, HEIGHT, WIDTH, declared, refusal_here, run_tool_here, write_two_domains

CONFIGS = Path(__file__).parents[2] / "configs"
LOSSES = {
    "retinanet": {"loss_cls", "loss_box_reg"},
    "fcos": {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"},
    "cascade": {f"loss_{x}_stage{i}" for x in ("cls", "box_reg") for i in range(3)} | {"loss_rpn_cls", "loss_rpn_loc"},
}
KEYS = {"retinanet": "RETINANET", "fcos": "FCOS", "cascade": "ROI_HEADS"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("dense")
    write_two_domains(root)
    return root


def options(folder, name, **keys):
    """A shipped config on the tiny scene: images of 64 x 96 pixels and three classes."""
    small = {
        f"MODEL.{KEYS[name]}.NUM_CLASSES": len(CLASSES), "MODEL.DEVICE": "cpu", "DATASETS.DECLARED": declared(folder),
        "DATASETS.TRAIN": ("source_train",), "DATASETS.TEST": ("target_val",), "INPUT.MIN_SIZE_TRAIN": [HEIGHT],
        "INPUT.MAX_SIZE_TRAIN": WIDTH, "INPUT.MIN_SIZE_TEST": HEIGHT, "INPUT.MAX_SIZE_TEST": WIDTH,
        "SOLVER.WARMUP_ITERS": 1, "MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD": 0.06, "OUTPUT_DIR": folder / name,
        **{k.replace("__", "."): v for k, v in keys.items()},
    }  # fmt: skip
    return [x for k, v in small.items() for x in (k, v)]


def last_metrics(run):
    return {k: v for line in (run / "metrics.json").read_text().splitlines() for k, v in json.loads(line).items()}


@pytest.mark.parametrize("name", LOSSES)
def test_a_short_training_and_all_tools(folder, name, monkeypatch, capsys, caplog):
    """Source-only, then MIC from its weights: losses, AP, quality of pseudo-boxes, pictures; then every other tool."""
    source = CONFIGS / f"minicity/{name}_source_only.yaml"
    opts = options(folder, name, SOLVER__MAX_ITER=8, SOLVER__BASE_LR=0.005, OUTPUT_DIR=folder / f"{name}_source")
    run_tool_here("train_net.py", "--config-file", source, *opts, monkeypatch=monkeypatch)
    last = last_metrics(folder / f"{name}_source")
    assert LOSSES[name] == {k for k in last if k.startswith("loss")} and "bbox/AP50-red" in last

    config = CONFIGS / f"minicity/{name}_mic.yaml"
    weights = {"MODEL__WEIGHTS": folder / f"{name}_source/model_final.pth"}
    mic = {"SOLVER__MAX_ITER": 3, "SOLVER__BASE_LR": 0.005, "VIS_PERIOD": 3, "DATASETS__TARGET": ("target_train",),
           "TEST__PSEUDO_LABELS__DATASET": "target_val"}  # fmt: skip
    run_tool_here(
        "train_net.py", "--config-file", config, *options(folder, name, **mic, **weights), monkeypatch=monkeypatch
    )
    run = folder / name
    last = last_metrics(run)
    assert {f"{d}/{x}" for d in ("source", "masked") for x in LOSSES[name]} == {k for k in last if "/loss" in k}
    assert last["pseudo/num_boxes"] > 0 and {"bbox/AP50", "pseudo_labels/agreement"} <= last.keys()
    assert all(last[f"masked/{x}"] > 0 for x in LOSSES[name] if "cls" in x)
    assert cv2.imread(str(run / "visuals/0000003.jpg")) is not None

    weights = {"MODEL__WEIGHTS": run / "model_final.pth"}
    opts = options(folder, name, DATASETS__TARGET=("target_train",), **weights)
    for tool, *args in (
        ("predict.py", "--input", folder / "target/images/val_0.png", "--format", "pictures,coco",
         "--confidence-threshold", "0.001", "--output", folder / f"{name}_found"),
        ("visualize_pseudo_boxes.py", "--num-images", "1", "--output", folder / f"{name}_pictures"),
        ("show_context.py", "--ratios", "0.5", "--images", "1", "--output", folder / f"{name}_context", "--weights",
         f"MIC={run / 'model_final.pth'}"),
    ):  # fmt: skip
        run_tool_here(tool, "--config-file", config, *args, *opts, monkeypatch=monkeypatch)
    found = json.loads((folder / f"{name}_found/predictions.json").read_text())
    # below the model's own SCORE_THRESH_TEST of 0.05
    assert 0.001 <= min(a["score"] for a in found["annotations"]) < 0.05
    assert json.loads((folder / f"{name}_context/curve.json").read_text())["checkpoints"]["MIC"]["AP50"] != []
    assert (folder / f"{name}_pictures/contact_sheet.png").is_file()

    output = folder / f"exported/{name}.pth"
    export = ("export.py", "--config-file", config, "--output", output, *opts)
    if name == "fcos":
        message = refusal_here(*export, monkeypatch=monkeypatch)
        assert "FCOS cannot be exported: plain Detectron2 builds no FCOS from a config file" in message
        assert not output.exists()
    else:
        run_tool_here(*export, monkeypatch=monkeypatch)
        assert {k for k in torch.load(output, weights_only=True)["model"] if k.startswith("teacher")} == set()

    # another number of classes: a new training starts that layer anew, and prediction is refused
    capsys.readouterr()
    fewer = options(
        folder, name, **{"DATASETS__TARGET": ("target_train",), f"MODEL__{KEYS[name]}__NUM_CLASSES": 2}, **weights
    )
    args = ["--input", folder / "target/images/val_0.png", "--output", folder / "none"]
    message = refusal_here("predict.py", "--config-file", config, *args, *fewer, monkeypatch=monkeypatch)
    assert f"another number of classes than MODEL.{KEYS[name]}.NUM_CLASSES says" in message
    message = refusal_here("train_net.py", "--config-file", config, *fewer, monkeypatch=monkeypatch)
    assert f"has 3 classes ['red', 'green', 'blue'], but MODEL.{KEYS[name]}.NUM_CLASSES is 2" in message


@pytest.mark.parametrize("name", LOSSES)
def test_two_steps_of_the_configs_for_cityscapes(folder, name, monkeypatch):
    keys = {"MODEL__WEIGHTS": "", "SOLVER__MAX_ITER": 2, "TEST__EVAL_PERIOD": 0, "DATASETS__TARGET": ("target_train",),
            "MODEL__BACKBONE__FREEZE_AT": 0, "DATALOADER__NUM_WORKERS": 0,
            "OUTPUT_DIR": folder / f"{name}_cityscapes"}  # fmt: skip
    config = CONFIGS / f"cityscapes_to_foggy/{name}_mic.yaml"
    run_tool_here("train_net.py", "--config-file", config, *options(folder, name, **keys), monkeypatch=monkeypatch)
    last = last_metrics(folder / f"{name}_cityscapes")
    assert {f"source/{x}" for x in LOSSES[name]} <= last.keys() and "bbox/AP50" in last
