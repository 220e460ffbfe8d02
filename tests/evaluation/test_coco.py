"""AP50 for each class, against a case worked out by hand and against pycocotools called directly."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from helpers.data import load, tiny_config, write_coco
from mic_det.evaluation.coco import DetectionEvaluator

pytestmark = pytest.mark.usefixtures("clean_catalogs")

NAMES = ("perfect", "half", "never", "absent")
SIZE = 200


def evaluate(folder, truth, predictions, num_images=2):
    """Evaluate (image, class, xyxy, score) predictions against (image, class, xywh) boxes."""
    images = [(f"{i}.png", SIZE, SIZE) for i in range(num_images)]
    write_coco(folder / "truth.json", images, truth, NAMES)
    declared = {"hand_made": {"JSON": str(folder / "truth.json"), "IMAGES": str(folder)}}
    keys = {"DATASETS__CUSTOM": declared, "MODEL__ROI_HEADS__NUM_CLASSES": len(NAMES)}
    load(folder, tiny_config(folder, **keys))
    DatasetCatalog.get("hand_made")
    evaluator = DetectionEvaluator("hand_made", output_dir=str(folder / "out"))
    evaluator.reset()
    for i in range(num_images):
        mine = [p for p in predictions if p[0] == i]
        found = Instances((SIZE, SIZE))
        found.pred_classes = torch.tensor([c for _, c, _, _ in mine], dtype=torch.int64)
        found.pred_boxes = Boxes(torch.tensor([b for _, _, b, _ in mine], dtype=torch.float32).reshape(-1, 4))
        found.scores = torch.tensor([s for _, _, _, s in mine])
        evaluator.process([{"image_id": i + 1}], [{"instances": found}])
    return evaluator.evaluate()["bbox"]


def test_ap50_of_each_class_by_hand(tmp_path):
    truth = [
        (0, 0, (10, 10, 40, 40)), (1, 0, (60, 60, 50, 30)),
        (0, 1, (100, 100, 50, 50)), (1, 1, (20, 20, 60, 60)),
        (0, 2, (150, 10, 30, 30)),
    ]  # fmt: skip
    predictions = [
        (0, 0, (10, 10, 50, 50), 0.9), (1, 0, (60, 60, 110, 90), 0.4),
        # an IoU of 50 * 36 / 50^2 = 0.72: found at 0.5, missed at 0.75
        (0, 1, (100, 100, 150, 136), 0.8),
        # on the box of class "never", by another class; and far from its own
        (0, 1, (150, 10, 180, 40), 0.3),
        (1, 2, (150, 10, 180, 40), 0.9),
    ]  # fmt: skip
    results = evaluate(tmp_path, truth, predictions)
    # COCO reads precision at recalls 0, 0.01, ..., 1. "half" has precision 1 up to a recall of 0.5: 51 of 101.
    half = 51 / 101 * 100
    assert results["AP50-perfect"] == pytest.approx(100)
    assert results["AP50-half"] == pytest.approx(half)
    assert results["AP50-never"] == 0
    assert np.isnan(results["AP50-absent"]), "a class without a true box has no AP, not 0"
    assert results["AP50"] == pytest.approx((100 + half + 0) / 3)
    # over IoU thresholds 0.5, 0.55, ..., 0.95, the box with IoU 0.72 counts at the first five
    assert results["AP-half"] == pytest.approx(half * 5 / 10)
    assert results["AP-perfect"] == pytest.approx(100)


def test_a_false_box_with_a_higher_score_lowers_the_precision(tmp_path):
    predictions = [(0, 0, (10, 10, 50, 50), 0.5), (0, 0, (100, 100, 150, 150), 0.9)]
    results = evaluate(tmp_path, [(0, 0, (10, 10, 40, 40))], predictions)
    assert results["AP50-perfect"] == pytest.approx(50)  # one of two is right when it is found


def test_ap50_of_each_class_is_what_pycocotools_says(tmp_path):
    rng = np.random.default_rng(0)
    truth, predictions = [], []
    for i in range(6):
        for _ in range(8):
            c, (x, y), (w, h) = int(rng.integers(3)), rng.uniform(0, 120, 2), rng.uniform(15, 70, 2)
            truth.append((i, c, (float(x), float(y), float(w), float(h))))
            for _ in range(2):  # boxes that miss by a varying amount, sometimes as another class
                shift = rng.normal(0, 0.15, 4) * [w, h, w, h]
                label = c if rng.random() < 0.8 else int(rng.integers(3))
                predictions.append((i, label, list(np.array([x, y, x + w, y + h]) + shift), float(rng.random())))
    results = evaluate(tmp_path, truth, predictions, num_images=6)

    coco = COCO(str(tmp_path / "truth.json"))
    found = coco.loadRes(json.loads((tmp_path / "out/coco_instances_results.json").read_text()))
    for category, name in enumerate(NAMES[:3], start=1):
        alone = COCOeval(coco, found, "bbox")
        alone.params.catIds = [category]
        alone.evaluate(), alone.accumulate(), alone.summarize()
        assert 5 < alone.stats[1] * 100 < 95, "neither trivially good nor bad"
        assert results[f"AP50-{name}"] == pytest.approx(alone.stats[1] * 100)
        assert results[f"AP-{name}"] == pytest.approx(alone.stats[0] * 100)


def test_no_prediction_at_all_is_0_where_there_is_something_to_find(tmp_path):
    """As with one box that is wrong: a curve of AP ends at 0 and not where the last box was found."""
    truth = [(0, 0, (10, 10, 40, 40)), (1, 2, (10, 10, 40, 40))]
    results = evaluate(tmp_path, truth, [])
    missed = evaluate(tmp_path, truth, [(0, 0, (150, 150, 160, 160), 0.9), (0, 2, (150, 150, 160, 160), 0.9)])
    for key in ("AP", "AP50", "AP75", "AP50-perfect", "AP-perfect", "AP50-never"):
        assert results[key] == missed[key] == 0, key
    assert np.isnan(results["AP50-absent"]) and np.isnan(results["AP-half"])


def test_nothing_to_find_is_undefined(tmp_path):
    assert np.isnan(evaluate(tmp_path, [], [])["AP50"])
