"""PCK by hand, keypoint AP as pycocotools has it of the files themselves, and what evaluation reports."""

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from helpers.data import load, tiny_config, write_two_domains
from helpers.keypoints import HEAD, SIGMAS, add_keypoints
from mic_det.data.run_sets import check_datasets
from mic_det.evaluation.evaluators import make_evaluators
from mic_det.evaluation.keypoints import KeypointEvaluator

# an image of three persons (class 0), a rider (1) and a crowd; boxes are XYWH, keypoints (x, y, v) in coordinates
TRUTH = [
    (0, [0, 0, 20, 40], [(10, 5, 2), (5, 30, 2), (15, 30, 1)], 0),
    (0, [50, 0, 20, 40], [(60, 5, 2), (0, 0, 0), (65, 30, 2)], 0),
    (0, [100, 0, 20, 40], [(110, 5, 2), (105, 30, 2), (115, 30, 2)], 0),  # nobody finds it
    (1, [0, 60, 40, 20], [(20, 65, 2), (10, 75, 1), (30, 75, 1)], 0),
    (0, [150, 0, 20, 40], [(160, 5, 2), (155, 30, 2), (165, 30, 2)], 1),
]
# (class, score, XYXY box, keypoints (x, y))
FOUND = [
    (0, 0.9, [0, 0, 20, 40], [(10, 9), (5, 34.1), (99, 30)]),  # 4 of 40 pixels away: right; 4.1: wrong; covered: wrong
    (0, 0.8, [2, 0, 22, 40], [(10, 5), (5, 30), (15, 30)]),  # the first person is taken already
    (0, 0.7, [50, 0, 70, 40], [(60, 5), (70, 70), (68, 27)]),  # right, not labelled, right (sqrt(18) = 4.24 > 4: wrong)
    (0, 0.6, [100, 0, 120, 19], [(110, 5), (105, 30), (115, 30)]),  # IoU 0.475
    (0, 0.5, [0, 60, 40, 80], [(20, 65), (10, 75), (30, 75)]),  # the rider, but of another class
    (1, 0.4, [0, 60, 40, 80], [(20, 66), (10, 75), (34, 75)]),  # all right
    (0, 0.3, [150, 0, 170, 40], [(160, 5), (155, 30), (165, 30)]),
]


def instances(found, size=(100, 200)):
    x = Instances(size, pred_boxes=Boxes(torch.tensor([f[2] for f in found], dtype=torch.float32).reshape(-1, 4)))
    x.pred_classes = torch.tensor([f[0] for f in found], dtype=torch.int64)
    x.scores = torch.tensor([f[1] for f in found], dtype=torch.float32)
    points = torch.tensor([[(*p, 0.5) for p in f[3]] for f in found], dtype=torch.float32)
    x.pred_keypoints = points.reshape(len(found), 3, 3)
    return x


@pytest.fixture
def by_hand(clean_catalogs):
    annotations = [
        {"category_id": c, "bbox": b, "bbox_mode": 1, "keypoints": [v for p in k for v in p], "iscrowd": crowd}
        for c, b, k, crowd in TRUTH
    ]
    annotations.append({"category_id": 2, "bbox": [5, 5, 9, 9], "bbox_mode": 1, "iscrowd": 0})  # a car has none
    dicts = [{"file_name": f"{i}.png", "image_id": i, "height": 100, "width": 200, "annotations": a}
             for i, a in (("a", annotations), ("empty", []))]  # fmt: skip
    DatasetCatalog.register("by_hand", lambda: dicts)
    MetadataCatalog.get("by_hand").set(
        thing_classes=["person", "rider", "car"], keypoint_names=["head", "left_foot", "right_foot"]
    )
    return dicts


def pck(dicts, found, share=0.1):
    evaluator = KeypointEvaluator("by_hand", share, distributed=False)
    evaluator.reset()
    for d, f in zip(dicts, found):
        evaluator.process([d], [{"instances": instances(f)}])
    return evaluator.evaluate()["pck"]


def test_pck_by_hand(by_hand):
    results = pck(by_hand, [FOUND[::-1], []])  # in any order
    # visible: of persons 1 and 2, the head is right and a foot is wrong; person 3 has three, all missed;
    # the rider's head is right
    assert results["PCK"] == pytest.approx(100 * 3 / 8)
    assert results["PCK-person"] == pytest.approx(100 * 2 / 7)
    assert results["PCK-rider"] == 100
    assert results["PCK-head"] == pytest.approx(100 * 3 / 4)
    assert results["PCK-foot"] == 0  # of four
    assert results["PCK-occluded"] == pytest.approx(100 * 2 / 3)  # both feet of the rider, not that of person 1
    assert set(results) == {"PCK", "PCK-person", "PCK-rider", "PCK-head", "PCK-foot", "PCK-occluded"}
    assert pck(by_hand, [FOUND, []], share=0.11)["PCK"] == pytest.approx(100 * 5 / 8)  # 4.1 and 4.24 are below 4.4
    assert pck(by_hand, [FOUND, []], share=0.05)["PCK"] == pytest.approx(100 * 2 / 8)  # 4 is above 2


def test_a_prediction_takes_the_true_box_that_it_overlaps_most(by_hand):
    """Two predictions of one pair of true boxes that overlap each other."""
    by_hand[0]["annotations"] = by_hand[0]["annotations"][:1]
    second = {**by_hand[0]["annotations"][0], "bbox": [4, 0, 20, 40], "keypoints": [14, 5, 2, 9, 30, 2, 19, 30, 2]}
    by_hand[0]["annotations"].append(second)
    right = [(14, 5), (9, 30), (19, 30)]
    found = [(0, 0.9, [4, 0, 24, 40], right), (0, 0.8, [4, 0, 24, 40], [(10, 5), (5, 30), (15, 30)])]
    results = pck(by_hand, [found, []], share=0.01)
    assert results["PCK"] == results["PCK-occluded"] == 100, "the second one has the box that is left (IoU 0.67)"
    found[0], found[1] = (0, 0.8, *found[0][2:]), (0, 0.9, *found[1][2:])
    assert pck(by_hand, [found, []], share=0.01)["PCK"] == 0


def test_nothing_found_is_all_missed_and_nothing_there_is_undefined(by_hand):
    assert pck(by_hand, [[], []])["PCK"] == 0
    del by_hand[0]["annotations"][:5]
    results = pck(by_hand, [FOUND, []])
    assert math.isnan(results["PCK"]) and math.isnan(results["PCK-occluded"]) and "PCK-person" not in results


def test_keypoint_ap_is_that_of_pycocotools_on_the_files(tmp_path, clean_catalogs):
    write_two_domains(tmp_path)
    for file in tmp_path.glob("*/*.json"):
        add_keypoints(file)
    cfg = load(tmp_path, tiny_config(tmp_path, tmp_path / "out", **HEAD))
    check_datasets(cfg)
    evaluators = make_evaluators(cfg, "target_val", str(tmp_path / "found"))
    rng, results = np.random.default_rng(0), {}
    for evaluator in evaluators:
        evaluator.reset()
    for d in DatasetCatalog.get("target_val"):
        found = []
        for a in d["annotations"]:
            x, y, w, h = a["bbox"]
            points = [(x + w * u + rng.normal(0, 2), y + h * u + rng.normal(0, 2)) for u in (0.5, 0.9, 0.1)]
            found.append((a["category_id"], float(rng.random()), [x, y, x + w, y + h], points))
        for evaluator in evaluators:
            evaluator.process([d], [{"instances": instances(found, (64, 96))}])
    for evaluator in evaluators:
        results.update(evaluator.evaluate())
    coco = COCO(str(tmp_path / "target/val.json"))
    for a in coco.dataset["annotations"]:
        a.setdefault("keypoints", [0] * 9), a.setdefault("num_keypoints", 0)
    judge = COCOeval(coco, coco.loadRes(str(tmp_path / "found/coco_instances_results.json")), "keypoints")
    judge.params.kpt_oks_sigmas = np.array(SIGMAS)
    judge.evaluate(), judge.accumulate(), judge.summarize()
    assert 5 < results["keypoints"]["AP"] < 95
    for i, name in enumerate(("AP", "AP50", "AP75")):
        assert results["keypoints"][name] == pytest.approx(100 * judge.stats[i], abs=1e-8)
    assert math.isnan(results["keypoints"]["AP-blue"])
    assert results["bbox"]["AP50"] == pytest.approx(100)
    assert 0 < results["pck"]["PCK"] < 100 and set(results) == {"bbox", "keypoints", "pck"}
    # without a single prediction, there are the same results
    for evaluator in evaluators:
        evaluator.reset()
        for d in DatasetCatalog.get("target_val"):
            evaluator.process([d], [{"instances": instances([], (64, 96))}])
        found = evaluator.evaluate()
        assert all(found[task][key] == 0 for task, key in (("keypoints", "AP"), ("pck", "PCK")) if task in found)
