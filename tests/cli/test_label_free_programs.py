"""mic-det estimate and which-images: what they write, and that a training takes the corrected labels."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from helpers.data import disturb, forget_registered_sets, load, tiny_config, write_config, write_two_domains
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.cli import program
from mic_det.cli.estimate import estimates
from mic_det.data.corruptions import CORRUPTIONS
from mic_det.engine.setup import get_mic_cfg
from mic_det.engine.trainer import MICTrainer
from mic_det.evaluation.label_free.measure import dicts_of, read_labelled, read_unlabelled
from mic_det.evaluation.label_free.passes import predict
from mic_det.inference.predictor import load_model

pytestmark = pytest.mark.slow

KEYS = {
    "MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"], "MODEL__RESNETS__RES2_OUT_CHANNELS": 64,
    "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.2, "SOLVER__MAX_ITER": 3, "MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD": 0.3,
}  # fmt: skip


def run(*argv):
    with forget_registered_sets():
        return program.run(argv[0], list(map(str, argv[1:])), f"mic-det {argv[0]}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained model that predicts many boxes, and sets of both domains; ``many`` has all source images."""
    root = tmp_path_factory.mktemp("programs")
    write_two_domains(root)
    config = tiny_config(root, root / "run", **KEYS)
    config["DATASETS"]["CUSTOM"]["both"] = {"JSON": str(root / "both.json"), "IMAGES": str(root / "source" / "images")}
    target = {"JSON": str(root / "target" / "train.json"), "IMAGES": str(root / "target" / "images")}
    config["DATASETS"]["CUSTOM"]["target_labelled"] = target  # labels of a set of DATASETS.TARGET are not read
    parts = [json.loads((root / "source" / f"{x}.json").read_text()) for x in ("train", "val")]
    for x in parts[1]["images"]:
        x["id"] += 100
    for x in parts[1]["annotations"]:
        x.update(id=x["id"] + 100, image_id=x["image_id"] + 100)
    merged = {k: parts[0][k] + parts[1][k] for k in ("images", "annotations")}
    (root / "both.json").write_text(json.dumps({**parts[0], **merged}))
    write_config(root / "mic.yaml", config)
    with forget_registered_sets():
        cfg = load(root, config)
        torch.manual_seed(0)
        model = disturb(MICTrainer.build_model(cfg), 1)
        checkpointer = MICCheckpointer(model, str(root), class_names=["red", "green", "blue"])
        checkpointer.save("model")
    return root


def base(folder):
    return ["--config-file", folder / "mic.yaml", "--weights", folder / "model.pth"]


def test_an_estimate_is_that_of_the_library_and_has_what_it_is_based_on(folder, tmp_path, capsys):
    out = tmp_path / "e.json"
    run("estimate", *base(folder), "--source", "both", "--labels", 6, "--labelled", "target_labelled", "--output", out)
    found, shown = json.loads(out.read_text()), capsys.readouterr().out
    assert [(x["kind"], x["level"]) for x in found["meta_set"]] == [(c.kind, c.level) for c in CORRUPTIONS]
    assert (
        set(found["classes"]) == {"red", "green", "blue"} and found["num_images"] == 8 and found["source_images"] == 12
    )
    for x in (found["AP50"], found["without_labels"], found["with_labels"]):
        assert 0 <= x["low"] <= x["value"] <= x["high"] <= 100
    assert "By 6 labelled images" in shown and "all classes" in shown
    with forget_registered_sets():
        cfg = get_mic_cfg(str(folder / "mic.yaml"))
        model = load_model(cfg, str(folder / "model.pth"))
        source, target = read_labelled(cfg, dicts_of("both")), read_unlabelled(cfg, dicts_of("target_train"))
        again = estimates(model, 3, source, target)
        # the copy without a change has the AP50 of an ordinary evaluation
        cfg.DATASETS.TEST, cfg.OUTPUT_DIR = ("both",), str(tmp_path)
        ap50 = MICTrainer.test(cfg, model)["bbox"]["AP50"]
    assert again["AP50"] == found["without_labels"]
    assert list(found["classes"].values()) == again["classes"] and again["meta_set"] == found["meta_set"]
    assert found["meta_set"][0]["AP50"] == pytest.approx(ap50, abs=1e-6)


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--source", "nowhere"], "--source 'nowhere' is neither"),
        (["--source", "source_val", "--images", "nowhere"], "nowhere"),
        (["--source", "both", "--labels", 6, "--labelled", "target_train"], "declare it again by another name"),
        (["--source", "both", "--labels", 9, "--labelled", "target_val"], "--labels 9: target_val has 4 images"),
    ],
)
def test_wrong_arguments_of_estimate_end_in_one_line(folder, tmp_path, argv, words):
    with pytest.raises(SystemExit) as caught:
        run("estimate", *base(folder), *argv, "--output", tmp_path / "e.json")
    assert words in str(caught.value.code) and not (tmp_path / "e.json").exists()


@pytest.fixture(scope="module")
def picked(folder):
    out = folder / "to_label"
    run("which-images", *base(folder), "--count", 3, "--confidence-threshold", 0.25, "--output", out, "--share", 0.5)
    return out


def test_pre_labels_are_a_coco_file_of_the_detectors_boxes(folder, picked):
    content = json.loads((picked / "pre_labels.json").read_text())
    files = (picked / "images.txt").read_text().splitlines()
    assert len(content["images"]) == len(files) == len(set(files)) == 3
    assert [c["name"] for c in content["categories"]] == ["red", "green", "blue"]
    assert all(str(folder / "target" / "images" / x["file_name"]) == f for x, f in zip(content["images"], files))
    with forget_registered_sets():
        cfg = get_mic_cfg(str(folder / "mic.yaml"))
        detector = load_model(cfg, str(folder / "model.pth")).teacher
        dicts = {d["file_name"]: d for d in dicts_of("target_train")}
        images = read_unlabelled(cfg, [dicts[f] for f in files])
        for x, (_, image) in zip(content["images"], images.items):
            (found,) = predict(detector, [image])
            sure = found.boxes[found.scores >= 0.25]
            written = [a["bbox"] for a in content["annotations"] if a["image_id"] == x["id"]]
            expected = np.hstack([sure[:, :2], sure[:, 2:] - sure[:, :2]])
            np.testing.assert_allclose(np.reshape(written, (-1, 4)), expected, atol=2e-3)
            assert (x["width"], x["height"]) == (image.shape[2], image.shape[1])
    assert content["annotations"]


def test_a_training_takes_the_corrected_labels_as_often_as_asked(folder, picked, tmp_path):
    shutil.copy(folder / "target" / "train.json", picked / "labels.json")  # the truth, as if labelled by hand
    chosen = set((picked / "images.txt").read_text().splitlines())
    content = json.loads((picked / "labels.json").read_text())
    content["images"] = [x for x in content["images"] if str(folder / "target" / "images" / x["file_name"]) in chosen]
    kept = {x["id"] for x in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (picked / "labels.json").write_text(json.dumps(content))
    config = yaml.safe_load((picked / "train.yaml").read_text())
    assert config["DATASETS"]["TRAIN"] == ["source_train", *["labelled_target"] * 3]  # 8 source images, half and half
    with forget_registered_sets():
        cfg = get_mic_cfg(str(picked / "train.yaml"), ["OUTPUT_DIR", str(tmp_path)])
        assert cfg.MODEL.WEIGHTS == str(folder / "model.pth") and cfg.MODEL.META_ARCHITECTURE == "MIC"
        trainer = MICTrainer(cfg)
        files = [d["file_name"] for d in trainer.data_loader.domains[0]["dicts"]]
    assert len(files) == 8 + 9 and all(files.count(f) == 3 for f in chosen)
    run("train", "--config-file", picked / "train.yaml")
    assert (picked / "run" / "model_final.pth").is_file()
