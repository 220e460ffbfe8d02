"""Accuracy of image classes by hand, and the files of the evaluator."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from mic_det.evaluation.image_class import ImageClassEvaluator, accuracies, confusion_counts

NAMES = ["car", "bus $x$", "train"]
# 3 cars (2 right), 1 bus (wrong), no train
PAIRS = [(0, 0), (0, 0), (0, 1), (1, 2)]


def test_the_mean_over_classes_leaves_out_those_without_images():
    counts = confusion_counts(PAIRS, 3)
    assert counts.tolist() == [[2, 1, 0], [0, 0, 1], [0, 0, 0]]
    found = accuracies(counts, NAMES)
    assert found["accuracy"] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert found["top-1"] == 50
    assert found["accuracy-car"] == pytest.approx(200 / 3) and found["accuracy-bus $x$"] == 0
    assert math.isnan(found["accuracy-train"])
    assert math.isnan(accuracies(np.zeros((2, 2), int), ["a", "b"])["accuracy"])


def test_the_evaluator_writes_counts_and_a_picture(tmp_path):
    MetadataCatalog.get("t_classes").set(thing_classes=NAMES)
    evaluator = ImageClassEvaluator("t_classes", output_dir=str(tmp_path / "new"))
    evaluator.reset()
    for true, predicted in PAIRS:
        probs = torch.full((3,), 0.2)
        probs[predicted] = 0.6
        evaluator.process([{"image_class": true}], [{"image_class": probs}])
    results = evaluator.evaluate()["image_class"]
    assert results["accuracy"] == pytest.approx(100 / 3)
    written = json.loads((tmp_path / "new" / "confusion.json").read_text(encoding="utf-8"))
    assert written == {"classes": NAMES, "counts": [[2, 1, 0], [0, 0, 1], [0, 0, 0]]}
    with Image.open(tmp_path / "new" / "confusion.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 300 and (pixels[..., 2] > pixels[..., 0] + 60).any(), "a blue cell"
