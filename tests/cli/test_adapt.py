"""``mic-det adapt`` from two folders to its results, stopped in between, on tiny images; and from a trained model."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision

from helpers.adapt import adapt
from helpers.data import CLASSES, forget_registered_sets, load, tiny_config, write_two_domains
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.engine.setup import get_mic_cfg
from mic_det.engine.trainer import MICTrainer
from mic_det.experiments.runs import run_program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4
SMALL = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 50, "MODEL.FPN.OUT_CHANNELS", 32]


def check_panels(out, images, columns):
    """before_after.jpg shows these images, one a row, in so many columns; boxes cover some of their pixels."""
    picture = cv2.imread(str(out / "before_after.jpg")).astype(int)
    height, width = picture.shape[0] // len(images), picture.shape[1] // columns
    shown = [cv2.resize(cv2.imread(str(x)), (width, height - 36)).astype(int) for x in images]
    for row, column in itertools.product(range(len(images)), range(columns)):
        cell = picture[row * height + 36 : (row + 1) * height, column * width : (column + 1) * width]
        difference = [np.abs(cell - x).mean() for x in shown]
        assert np.argmin(difference) == row and difference[row] < 20, (row, column)


def check_teacher(file, checkpoint):
    teacher, key = torch.load(file, weights_only=True)["model"], "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(teacher[key], checkpoint["model"][f"teacher.{key}"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Day and fog as folders, ImageNet weights that are random, and OUT of a call that was stopped and continued."""
    root = tmp_path_factory.mktemp("adapt")
    write_two_domains(root)
    for domain in ("source", "target"):
        for split in ("train", "val"):
            (root / domain / split).mkdir()
            for image in (root / domain / "images").glob(f"{split}_*"):
                image.rename(root / domain / split / image.name)
            (root / domain / f"{split}.json").rename(root / domain / split / "labels.json")
    (root / "target/train/labels.json").unlink()
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), root / "imagenet.pth")
    return root


@pytest.fixture(scope="module")
def call(folder):
    return [
        folder / "source/train", folder / "target/train", "--output", folder / "out", "--test", folder / "target/val",
        "--steps", STEPS, "--weights", folder / "imagenet.pth", *SMALL,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def stopped(folder, call):
    """The first call: SIGTERM in the middle of the adaptation. Returns the exit code and what it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mic_det_console", "adapt", *map(str, call)]
    log = open(folder / "log.txt", "w+")
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + 1800
    while process.poll() is None and not (folder / "out/adapt/metrics.json").exists() and time.monotonic() < end:
        if (folder / "out/adapt/log.txt").exists() and "Starting training" in (
            folder / "out/adapt/log.txt"
        ).read_text():
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=600)
    log.seek(0)
    return code, log.read()


@pytest.fixture(scope="module")
def finished(folder, call, stopped):
    source = folder / "out/source/model_final.pth"
    before = source.stat().st_mtime_ns
    assert adapt(*call) == 0
    assert source.stat().st_mtime_ns == before, "the source model is not trained again"
    return folder / "out"


def test_dry_run_says_the_plan_and_writes_nothing(folder, call, capsys):
    call = [folder / "dry" if x == folder / "out" else x for x in call]
    assert adapt(*call, "--dry-run") == 0
    text = capsys.readouterr().out
    for part in ("8 images, 16 boxes (COCO", "8 images (images of", "4 images, 8 boxes", "red, green, blue",
                 "ImageNet weights of", "short side 160 pixels; images per step: 2 of the source, 2 of the target",
                 "4 on the source, then 4 of",
                 "minutes", "nothing was trained"):  # fmt: skip
        assert part in text, part
    assert not (folder / "dry").exists()


def test_a_signal_stops_the_training_in_order(stopped, folder):
    code, text = stopped
    assert code == 128 + signal.SIGTERM, text[-3000:]
    assert "Traceback" not in text
    assert json.loads((folder / "out/adapt.json").read_text())["done"] == ["check", "source"]
    assert not (folder / "out/report.html").exists()


def test_all_that_was_promised_is_there(finished, folder):
    last = torch.load(finished / "adapt/model_final.pth", weights_only=True)
    mic = torch.load(finished / "adapt/model_best_label_free.pth", weights_only=True)
    assert int(last["model"]["num_steps"]) == STEPS and mic["class_names"] == list(CLASSES)
    check_teacher(finished / "model.pth", mic)
    assert "GeneralizedRCNN" in (finished / "model.yaml").read_text()
    predictions = json.loads((finished / "predictions/predictions.json").read_text())
    assert len(predictions["images"]) == 8 and [c["name"] for c in predictions["categories"]] == list(CLASSES)
    assert (finished / "predictions/coco_instances_results.json").is_file()
    page = (finished / "report.html").read_text()
    assert "AP50" in page and "source" in page and "adapt" in page and "data:image/jpeg" in page
    check_panels(finished, [folder / f"target/val/val_{i}.png" for i in range(4)], 3)  # source-only, adapted, truth


def test_the_adaptation_began_from_the_source_models_teacher(finished):
    text = (finished / "adapt/log.txt").read_text()
    assert str(finished / "source/model_final.pth") in text
    metrics = [json.loads(line) for line in (finished / "adapt/metrics.json").read_text().splitlines()]
    assert any("bbox/AP50" in x for x in metrics) and any("masked/loss_cls" in x for x in metrics)


def test_train_net_makes_the_same_from_the_config(finished, folder):
    """Weights of a run of its own equal those of the run that was stopped and continued."""
    # in a process of its own, as adapt's: what other tests have left in this one could change the last bits
    run_program("train", "--config-file", finished / "adapt.yaml", "OUTPUT_DIR", folder / "again")
    first, again = (torch.load(f / "model_final.pth", weights_only=True)["model"] for f in
                    (finished / "adapt", folder / "again"))  # fmt: skip
    assert first.keys() == again.keys() and all(torch.equal(first[k], again[k]) for k in first)


def test_the_same_call_once_more_trains_nothing_and_keeps_what_a_user_changed(finished, call, capsys):
    """The start of the adaptation is made the best one without labels: all results are of it, and it is said."""
    kept = finished / "adapt/model_best_label_free.pth"
    content = torch.load(finished / "source/model_final.pth", weights_only=True)
    start = {"model": content["model"], "class_names": content["class_names"]}
    torch.save({**start, "iteration": -1, "label_free_score": 0.75}, kept)
    config = finished / "adapt.yaml"
    config.write_text(config.read_text() + "# mine\n")
    before = {p: p.stat().st_mtime_ns for p in finished.glob("*/model_final.pth")}
    assert adapt(*call) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before and config.read_text().endswith("# mine\n")
    printed, page = capsys.readouterr().out, (finished / "report.html").read_text()
    assert "AP50 on the test images" in printed and "after the last step)" in printed
    assert f"last step    {finished / 'adapt/model_final.pth'}" in printed and f"checkpoint   {kept}" in printed
    for text in (printed, page):
        assert "Without labels, the start (score 0.750) looks better than all adapted checkpoints" in text
    check_teacher(finished / "model.pth", content)


def test_another_call_with_the_folder_is_refused(finished, call):
    message = adapt(*call[: -len(SMALL)], "--classes", "red", *SMALL)
    assert message.startswith("error: ") and "belongs to another call" in message and "\n" not in message
    assert "--steps was 4" in adapt(*[9 if x == STEPS else x for x in call])


def test_from_a_trained_model_without_test_labels(folder, finished, tmp_path, capsys):
    write_two_domains(tmp_path / "data")
    with forget_registered_sets():
        cfg = load(tmp_path, tiny_config(tmp_path / "data", DATASETS__TEST=[]))
        model = MICTrainer.build_model(cfg)
        MICCheckpointer(model, str(tmp_path), class_names=list(CLASSES)).save("source")
    out = tmp_path / "out"
    args = [
        tmp_path / "source.pth",
        folder / "target/train",
        "--config-file",
        tmp_path / "config.yaml",
        "--output",
        out,
    ]
    assert adapt(*args, "--steps", 2) == 0
    assert not (out / "source").exists() and (out / "adapt/model_final.pth").is_file()
    files = sorted((folder / "target/train").glob("*.png"))
    check_panels(out, [files[i] for i in np.linspace(0, len(files) - 1, 4).astype(int)], 2)  # no truth is known
    assert "AP50" not in capsys.readouterr().out.split("The plan")[1].split("\n\n")[-1]


def test_test_images_that_are_trained_on_stop_it(folder, tmp_path):
    args = [
        folder / "source/train",
        folder / "target/train",
        "--test",
        folder / "source/train",
        "--output",
        tmp_path / "o",
    ]
    message = adapt(*args, "--weights", folder / "imagenet.pth")
    assert message.startswith("error: problems in the images and labels: 1.") and not (tmp_path / "o/source").exists()


def test_the_config_can_be_read_from_anywhere(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with forget_registered_sets():
        assert get_mic_cfg(finished / "source.yaml").MODEL.WEIGHTS.endswith("imagenet.pth")
