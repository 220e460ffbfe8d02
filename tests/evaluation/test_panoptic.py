"""Panoptic quality against values worked out by hand."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from mic_det.evaluation.panoptic import PanopticQuality, match, merge

NAMES = ["road", "sky", "car", "person"]


def box(x0, y0, x1, y1, size=(20, 40)):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def rle(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


@pytest.fixture
def name(tmp_path):
    """Sky above, road below, a car, and a crowd of persons; the last ten columns are ignored."""
    labels = np.zeros((20, 40), np.uint8)
    labels[:10] = 1
    labels[5:15, 5:15] = 2
    labels[12:16, 20:28] = 3
    labels[:, 30:] = 255
    Image.fromarray(labels).save(tmp_path / "a.png")
    annotations = [
        {"category_id": 0, "segmentation": rle(box(5, 5, 15, 15)), "iscrowd": 0},
        {"category_id": 1, "segmentation": rle(box(20, 12, 28, 16)), "iscrowd": 1},
    ]
    d = {"file_name": "a.jpg", "sem_seg_file_name": str(tmp_path / "a.png"), "annotations": annotations}
    DatasetCatalog.register("panoptic_by_hand", lambda: [d])
    MetadataCatalog.get("panoptic_by_hand").set(stuff_classes=NAMES, thing_classes=["car", "person"], ignore_label=255)
    yield "panoptic_by_hand"
    DatasetCatalog.remove("panoptic_by_hand")
    MetadataCatalog.pop("panoptic_by_hand")


def evaluate(name, masks, classes, scores, pixels):
    found = Instances((20, 40), pred_masks=torch.tensor(np.array(masks)), pred_classes=torch.tensor(classes),
                      scores=torch.tensor(scores), pred_boxes=Boxes(torch.zeros(len(masks), 4)))  # fmt: skip
    logits = torch.nn.functional.one_hot(torch.tensor(pixels), 4).permute(2, 0, 1).float()
    evaluator = PanopticQuality(name)
    evaluator.reset()
    evaluator.process([{"file_name": "a.jpg"}], [{"instances": found, "sem_seg": logits}])
    return evaluator.evaluate()["panoptic_seg"]


def half_and_half():
    pixels = np.zeros((20, 40), np.int64)
    pixels[:10] = 1
    return pixels


def test_all_right_is_100(name):
    results = evaluate(name, [box(5, 5, 15, 15)], [0], [0.9], half_and_half())
    # the crowd's pixels are void: road that covers them is not wrong
    assert results["PQ"] == results["SQ"] == results["RQ"] == 100 and "PQ-person" not in results


def test_by_hand(name):
    # a car of 100 pixels found as 80 of its own and 20 others: IoU 80 / 120; one person that is not there
    masks = [box(7, 5, 17, 15), box(0, 16, 4, 20)]
    results = evaluate(name, masks, [0, 1], [0.9, 0.6], half_and_half())
    assert results["PQ-car"] == pytest.approx(100 * 80 / 120)
    assert results["PQ-person"] == 0
    # sky: 300 - 50 pixels, of which 10 are under the car's mask and 10 of the car's own show
    assert results["PQ-sky"] == pytest.approx(100 * 240 / 260)
    # road: 300 - 50 - 32 (crowd) pixels; 16 under the person, 10 under the car's mask, 10 of the car's own show
    assert results["PQ-road"] == pytest.approx(100 * 192 / 228)
    assert results["PQ_th"] == pytest.approx(results["PQ-car"] / 2)
    assert results["PQ_st"] == pytest.approx((results["PQ-sky"] + results["PQ-road"]) / 2)
    assert results["RQ_th"] == pytest.approx(50)


def test_weak_hidden_and_small_segments_are_left_out():
    limits = dict(min_score=0.5, min_visible=0.5, min_stuff=64)
    masks = np.array([box(0, 0, 10, 10), box(2, 0, 12, 10), box(20, 0, 30, 10)])
    pixels = half_and_half()
    pixels[19, :10] = 1
    segments = merge(masks, [2, 2, 3], [0.9, 0.8, 0.4], pixels, [2, 3], **limits)
    assert [(c, int(m.sum())) for c, m in segments] == [(2, 100), (0, 390), (1, 310)]
    total = sum(m.astype(int) for _, m in segments)
    assert total.max() == 1 and total.sum() == 800
    pixels[:] = 0
    pixels[0, 30:] = 1  # ten pixels of sky
    assert [c for c, _ in merge(masks[:0], [], [], pixels, [2, 3], **limits)] == [0]


def test_what_is_mostly_void_counts_nowhere():
    void = box(0, 0, 20, 20)
    truth = [(2, box(20, 0, 30, 20))], void
    assert (match([(3, box(5, 0, 15, 10))], truth, 4) == [[0] * 4] * 2 + [[0, 0, 0, 1], [0] * 4]).all()
    assert match([(3, box(15, 0, 35, 10))], truth, 4)[3].tolist() == [0, 0, 1, 0]
