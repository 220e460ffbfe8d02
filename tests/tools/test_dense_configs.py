"""The shipped configs of RetinaNet, FCOS and Cascade R-CNN, small and short, through the tools that users run."""

import json
from pathlib import Path

import cv2
import pytest
import torch

from helpers.data import CLASSES, HEIGHT, WIDTH, declared, refusal_here, run_tool_here, write_config, write_two_domains

pytestmark = pytest.mark.slow

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


def on_the_scene(folder, file, name, output, **keys):
    """A shipped config on the tiny scene, of three classes; keys with "__" for dots override. Returns its path."""
    content = {"VERSION": 2, "_BASE_": str(CONFIGS / file)}
    small = {
        f"MODEL__{KEYS[name]}__NUM_CLASSES": len(CLASSES), "MODEL__DEVICE": "cpu",
        "DATASETS__CUSTOM": declared(folder), "DATASETS__TRAIN": ["source_train"], "DATASETS__TEST": ["target_val"],
        "INPUT__MIN_SIZE_TRAIN": [HEIGHT], "INPUT__MAX_SIZE_TRAIN": WIDTH, "INPUT__MIN_SIZE_TEST": HEIGHT,
        "INPUT__MAX_SIZE_TEST": WIDTH, "SOLVER__WARMUP_ITERS": 1, "SOLVER__BASE_LR": 0.005,
        "OUTPUT_DIR": str(folder / output), "MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD": 0.002,
        f"MODEL__{KEYS[name]}__SCORE_THRESH_TEST": 0.001, **keys,
    }  # fmt: skip
    for key, value in small.items():
        *parents, last = key.split("__")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return write_config(folder / f"{output}.yaml", content)


def last_metrics(run):
    return {k: v for line in (run / "metrics.json").read_text().splitlines() for k, v in json.loads(line).items()}


@pytest.mark.parametrize("name", LOSSES)
def test_a_short_training_and_all_tools(folder, name, monkeypatch):
    """Source-only, then MIC from its weights: losses, AP, quality of pseudo-boxes, pictures; then every other tool."""
    source = on_the_scene(folder, f"minicity/{name}_source_only.yaml", name, f"{name}_source", SOLVER__MAX_ITER=4)
    run_tool_here("train_net.py", "--config-file", source, monkeypatch=monkeypatch)
    last = last_metrics(folder / f"{name}_source")
    assert LOSSES[name] == {k for k in last if k.startswith("loss")} and "bbox/AP50-red" in last

    config = on_the_scene(
        folder, f"minicity/{name}_mic.yaml", name, name, SOLVER__MAX_ITER=2, VIS_PERIOD=2,
        DATASETS__TARGET=["target_train"], TEST__PSEUDO_LABELS={"DATASET": "target_val"},
    )  # fmt: skip
    opts = ["MODEL.WEIGHTS", folder / f"{name}_source/model_final.pth"]
    run_tool_here("train_net.py", "--config-file", config, *opts, monkeypatch=monkeypatch)
    run = folder / name
    last = last_metrics(run)
    assert {f"{d}/{x}" for d in ("source", "masked") for x in LOSSES[name]} == {k for k in last if "/loss" in k}
    assert last["pseudo/num_boxes"] > 0 and {"bbox/AP50", "pseudo_labels/agreement"} <= last.keys()
    assert all(last[f"masked/{x}"] > 0 for x in LOSSES[name] if "cls" in x)
    assert cv2.imread(str(run / "visuals/0000002_1.jpg")) is not None

    opts = ["MODEL.WEIGHTS", run / "model_final.pth"]
    for tool, *args in (
        ("predict.py", "--input", folder / "target/images/val_0.png", "--format", "pictures,coco",
         "--confidence-threshold", "0.001", "--output", folder / f"{name}_found"),
        ("visualize_pseudo_boxes.py", "--num-images", "1", "--output", folder / f"{name}_pictures"),
        ("show_context.py", "--ratios", "0.5", "--images", "1", "--output", folder / f"{name}_context", "--weights",
         f"MIC={run / 'model_final.pth'}"),
    ):  # fmt: skip
        high = [f"MODEL.{KEYS[name]}.SCORE_THRESH_TEST", "0.9"] if tool == "predict.py" else []
        run_tool_here(tool, "--config-file", config, *args, *opts, *high, monkeypatch=monkeypatch)
    found = json.loads((folder / f"{name}_found/predictions.json").read_text())
    # the model's own threshold gives way to that of the command line
    assert 0.001 <= min(a["score"] for a in found["annotations"]) < 0.9
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

    # another number of classes
    fewer = [f"MODEL.{KEYS[name]}.NUM_CLASSES", "2", *opts]
    args = ["--input", folder / "target/images/val_0.png", "--output", folder / "none", *fewer]
    message = refusal_here("predict.py", "--config-file", config, *args, monkeypatch=monkeypatch)
    assert f"another number of classes than MODEL.{KEYS[name]}.NUM_CLASSES says" in message
    message = refusal_here("train_net.py", "--config-file", config, *fewer, monkeypatch=monkeypatch)
    assert f"has 3 classes ['red', 'green', 'blue'], but MODEL.{KEYS[name]}.NUM_CLASSES is 2" in message


@pytest.mark.parametrize("name", LOSSES)
def test_two_steps_of_the_configs_for_cityscapes(folder, name, monkeypatch):
    config = on_the_scene(
        folder, f"cityscapes_to_foggy/{name}_mic.yaml", name, f"{name}_cityscapes", SOLVER__MAX_ITER=2,
        MODEL__WEIGHTS="", MODEL__BACKBONE__FREEZE_AT=0, MODEL__RESNETS__DEPTH=18, MODEL__RESNETS__RES2_OUT_CHANNELS=64,
        MODEL__RESNETS__NORM="GN", MODEL__FPN__OUT_CHANNELS=64, MODEL__ROI_BOX_HEAD__FC_DIM=64,
        DATASETS__TARGET=["target_train"], DATALOADER__NUM_WORKERS=0,
        TEST__EVAL_PERIOD=0,
    )  # fmt: skip
    run_tool_here("train_net.py", "--config-file", config, monkeypatch=monkeypatch)
    last = last_metrics(folder / f"{name}_cityscapes")
    assert {f"source/{x}" for x in LOSSES[name]} <= last.keys() and "bbox/AP50" in last
