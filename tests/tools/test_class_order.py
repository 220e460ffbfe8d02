"""Outputs of a model keep their names: in evaluation, prediction and training, whatever a test file's order is."""

import csv
import json

import numpy as np
import pytest
import torch

from helpers.clean_set import CLASSES, FILES, CleanSet
from helpers.data import disturb, forget_registered_sets, refusal_here, run_tool_here, tiny_config, write_config
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.data.classes import categories
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import CheckpointError
from mic_det.inference.predictor import class_list

pytestmark = pytest.mark.slow

ANY_SCORE = {"MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The set, the same with its classes in another order and case, and a model whose outputs are :data:`CLASSES`."""
    clean = CleanSet(tmp_path_factory.mktemp("scene"))
    content = json.loads(json.dumps(clean.content))
    for x in content["categories"]:
        x["id"], x["name"] = 9 - x["id"], x["name"].upper()
    for a in content["annotations"]:
        a["category_id"] = 9 - a["category_id"]
    clean.write("test.json", content)
    clean.reversed = content
    with forget_registered_sets():
        cfg = clean.config()
        torch.manual_seed(0)
        model = disturb(MICTrainer.build_model(cfg), seed=1)
        bias = model.roi_heads.box_predictor.cls_score.bias  # so that the classes are not alike
        bias.data.copy_(torch.tensor([1.0, 0.5, 0.0, 0.0]))
        # written before this change, or by other frameworks: no names
        torch.save({"model": model.state_dict()}, clean.folder / "nameless.pth")
        MICCheckpointer.from_config(cfg, model, str(clean.folder)).save("named")
    return clean


def config_file(scene, train, test="damaged", **keys):
    sets = {n: {"JSON": str(scene.folder / f), "IMAGES": str(scene.folder / "images")}
            for n, f in (("clean", "clean.json"), ("damaged", "test.json"), ("gone", "gone.json"))}  # fmt: skip
    keys = {**ANY_SCORE, "DATASETS__CUSTOM": sets, "DATASETS__TRAIN": train, "DATASETS__TEST": [test], **keys}
    return write_config(scene.folder / "run.yaml", tiny_config(scene.folder, scene.folder / "run", **keys))


def evaluated(scene, monkeypatch, capsys, weights, train, test):
    """Scores of the test set's results by (file, class name, x), and the AP that the program prints."""
    file = config_file(scene, train, test)
    run_tool_here("train_net.py", "--config-file", file, "--eval-only", "MODEL.WEIGHTS", scene.folder / weights,
                  monkeypatch=monkeypatch)  # fmt: skip
    content = scene.content if test == "clean" else scene.reversed
    results = json.loads((scene.folder / f"run/inference/{test}/coco_instances_results.json").read_text())
    files = {x["id"]: x["file_name"] for x in content["images"]}
    names = {x["id"]: x["name"].lower() for x in content["categories"]}
    return {
        (files[r["image_id"]], names[r["category_id"]], *np.round(r["bbox"], 3).tolist()): r["score"] for r in results
    }


@pytest.mark.parametrize(
    "weights, train",
    [("nameless.pth", ["clean"]), ("named.pth", ["clean"]), ("named.pth", []), ("named.pth", ["gone"])],
)
def test_eval_only_maps_by_name(scene, monkeypatch, capsys, weights, train):
    expected = evaluated(scene, monkeypatch, capsys, "nameless.pth", ["clean"], "clean")
    found = evaluated(scene, monkeypatch, capsys, weights, train, "damaged")
    assert len(expected) > 20 and len({name for _, name, *_ in expected}) == 3
    assert found == expected


def test_without_any_name_the_test_sets_order_is_taken_and_reported(scene, monkeypatch, capsys):
    expected = evaluated(scene, monkeypatch, capsys, "nameless.pth", ["clean"], "clean")
    found = evaluated(scene, monkeypatch, capsys, "nameless.pth", [], "damaged")
    assert found != expected
    log = (scene.folder / "run/log.txt").read_text()
    assert "classes of the model are taken to be those of damaged" in log


@pytest.mark.parametrize("weights, train", [("nameless.pth", ["clean"]), ("named.pth", []), ("named.pth", ["gone"])])
def test_predictions_have_the_models_names(scene, monkeypatch, weights, train):
    file, out = config_file(scene, train), scene.folder / "found"
    run_tool_here("predict.py", "--config-file", file, "--input", scene.folder / "images" / FILES[0], "--output", out,
                  "--format", "csv,coco", "--confidence-threshold", "0", "MODEL.WEIGHTS", scene.folder / weights,
                  monkeypatch=monkeypatch)  # fmt: skip
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    # by its bias the first output is the most probable class of everything
    best = max(rows, key=lambda r: float(r["score"]))
    ids = {"car": "1", "bus": "2", "traffic light": "3"} if train == ["clean"] else {"car": "8"}
    assert best["class"] == "car" and best["category_id"] == ids["car"]


def test_a_training_does_not_start_from_weights_of_another_order(scene, monkeypatch):
    file = config_file(scene, ["damaged"], SOLVER__MAX_ITER=1)
    message = refusal_here("train_net.py", "--config-file", file, "MODEL.WEIGHTS", scene.folder / "named.pth",
                           monkeypatch=monkeypatch)  # fmt: skip
    assert "named.pth" in message and "another order" in message and str(list(CLASSES)) in message


def test_two_checkpoints_of_different_orders_are_not_compared(scene):
    with forget_registered_sets():
        cfg = scene.config(DATASETS__TRAIN=[])
        model = MICTrainer.build_model(cfg)
        other = scene.config(DATASETS__TRAIN=["damaged"])
        MICCheckpointer.from_config(other, model, str(scene.folder)).save("other")
        cfg = scene.config(DATASETS__TRAIN=[])
        MICCheckpointer.from_config(cfg, model, complete=True).load(str(scene.folder / "named.pth"))
        with pytest.raises(CheckpointError, match="use one call for each"):
            MICCheckpointer.from_config(cfg, model, complete=True).load(str(scene.folder / "other.pth"))


def test_names_and_ids_are_those_of_the_first_set_that_the_model_is_trained_on(scene):
    with forget_registered_sets():
        cfg = scene.config()
        assert class_list(cfg) == [(i + 1, n) for i, n in enumerate(CLASSES)]
        assert categories("damaged") == [(6, "TRAFFIC LIGHT"), (7, "BUS"), (8, "CAR")]
        assert class_list(cfg, ["bus", "car", "traffic light"]) == [(2, "bus"), (1, "car"), (3, "traffic light")]
