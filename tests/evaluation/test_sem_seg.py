"""mIoU against values worked out by hand, and both models at one evaluation."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mic_det.errors import DataError
from mic_det.evaluation.sem_seg import LabelMapEvaluator


@pytest.fixture
def files(tmp_path):
    """Two images of 2 x 4 pixels; class 2 does not occur."""
    truth = [[[0, 0, 1, 1], [0, 255, 1, 1]], [[1, 1, 1, 1], [0, 0, 255, 255]]]
    dicts = []
    for i, labels in enumerate(truth):
        file = tmp_path / f"{i}.png"
        Image.fromarray(np.array(labels, np.uint8)).save(file)
        dicts.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(file), "image_id": i})
    DatasetCatalog.register("by_hand", lambda: dicts)
    MetadataCatalog.get("by_hand").set(stuff_classes=["road", "car", "train"], ignore_label=255)
    yield tmp_path
    DatasetCatalog.remove("by_hand")
    MetadataCatalog.pop("by_hand")


def answer(labels):
    return {"sem_seg": torch.nn.functional.one_hot(torch.tensor(labels), 3).permute(2, 0, 1).float()}


def evaluate(predictions):
    evaluator = LabelMapEvaluator("by_hand", distributed=False)
    evaluator.reset()
    for i, labels in enumerate(predictions):
        evaluator.process([{"file_name": f"{i}.jpg"}], [answer(labels)])
    return evaluator.evaluate()["sem_seg"]


def test_by_hand(files):
    # road: 5 pixels of truth, predicted 4 with 3 right; car: 8 of truth, predicted 9 with 7 right
    results = evaluate([[[0, 0, 1, 1], [1, 2, 1, 1]], [[1, 1, 0, 1], [0, 1, 2, 2]]])
    assert results["IoU-road"] == pytest.approx(100 * 3 / (5 + 4 - 3))
    assert results["IoU-car"] == pytest.approx(100 * 7 / (8 + 9 - 7))
    assert np.isnan(results["IoU-train"])
    assert results["mIoU"] == pytest.approx((50 + 70) / 2) and results["pACC"] == pytest.approx(100 * 10 / 13)
    assert not any("oundary" in key for key in results)


def test_all_right_is_100(files):
    assert evaluate([[[0, 0, 1, 1], [0, 2, 1, 1]], [[1, 1, 1, 1], [0, 0, 0, 0]]])["mIoU"] == 100


def test_labels_beyond_the_classes_are_named(files):
    Image.fromarray(np.full((2, 4), 9, np.uint8)).save(files / "1.png")
    with pytest.raises(DataError, match="1.png has the label 9, but there are 3 classes"):
        evaluate([[[0] * 4] * 2] * 2)
