"""Box metrics by faster-coco-eval are pycocotools'."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from helpers_data import forget_registered_sets, load, tiny_config, write_coco
from mic_det.evaluation.coco import COCOeval_faster, DetectionEvaluator

pytestmark = pytest.mark.skipif(COCOeval_faster is None, reason="faster-coco-eval is not installed")
CLASSES = ("car", "person", "train", "nowhere")
NUM_IMAGES, WIDTH, HEIGHT = 12, 640, 320


@pytest.fixture
def random_set(tmp_path):
    """Boxes of all COCO sizes, crowds, equal scores, an image without any; detections near them and elsewhere."""
    rng = np.random.default_rng(0)
    truth, found = [], []
    for i in range(NUM_IMAGES):
        found.append([])
        for _ in range(0 if i == 3 else rng.integers(4, 14)):
            c, xy, wh = int(rng.integers(3)), rng.uniform(0, (500, 220)), np.exp(rng.uniform(1.5, 5, 2))
            truth.append((i, c, (*map(float, xy), *map(float, wh))))
            for _ in range(3):
                corners = np.concatenate([xy, xy + wh]) + rng.normal(0, 0.12, 4) * np.tile(wh, 2)
                found[i].append((int(rng.integers(3)) if rng.random() < 0.2 else c, corners, round(rng.random(), 2)))
        for _ in range(90):  # more than the 100 that count
            xy = rng.uniform(0, (500, 220))
            found[i].append((int(rng.integers(3)), np.concatenate([xy, xy + rng.uniform(5, 90, 2)]), rng.random() / 2))
    images = [(f"{i}.png", WIDTH, HEIGHT) for i in range(NUM_IMAGES)]
    content = write_coco(tmp_path / "truth.json", images, truth, CLASSES)
    for x in content["annotations"][::9]:
        x["iscrowd"] = 1
    write_coco(tmp_path / "truth.json", images, truth, CLASSES, {"annotations": content["annotations"]})
    declared = {"random_set": {"JSON": str(tmp_path / "truth.json"), "IMAGES": str(tmp_path)}}
    keys = {"DATASETS__CUSTOM": declared, "MODEL__ROI_HEADS__NUM_CLASSES": len(CLASSES)}
    with forget_registered_sets():
        load(tmp_path, tiny_config(tmp_path, **keys))
        DatasetCatalog.get("random_set")
        yield [as_instances(x) for x in found]


def as_instances(found):
    x = Instances((HEIGHT, WIDTH))
    x.pred_classes = torch.tensor([c for c, _, _ in found], dtype=torch.int64)
    x.pred_boxes = Boxes(torch.tensor(np.array([b for _, b, _ in found])).float().reshape(-1, 4))
    x.scores = torch.tensor([s for _, _, s in found])
    return x


def evaluate(found, folder, img_ids=None, **kwargs):
    evaluator = DetectionEvaluator("random_set", output_dir=str(folder), **kwargs)
    evaluator.reset()
    for i, x in enumerate(found):
        evaluator.process([{"image_id": i + 1}], [{"instances": x}])
    return evaluator.evaluate(img_ids)["bbox"], (folder / "coco_instances_results.json").read_text()


@pytest.mark.parametrize("img_ids", [None, [2, 4, 5]])
def test_numbers_and_files_are_those_of_pycocotools(random_set, tmp_path, caplog, img_ids):
    caplog.set_level("INFO", logger="mic_det")
    caplog.set_level("INFO", logger="detectron2")
    fast, written = evaluate(random_set, tmp_path / "fast", img_ids)
    slow, expected = evaluate(random_set, tmp_path / "slow", img_ids, use_fast_impl=False)
    assert fast.keys() == slow.keys() and {"APs", "APm", "APl", "AP50-car", "AP-person"} <= fast.keys()
    for k, v in slow.items():
        assert fast[k] == pytest.approx(v, rel=0, abs=1e-10, nan_ok=True), k
    assert 5 < slow["AP50"] < 95 and np.isnan(slow["AP50-nowhere"])
    assert written == expected


def test_no_detection_at_all(random_set, tmp_path):
    nothing = [x[:0] for x in random_set]
    fast, slow = (evaluate(nothing, tmp_path / str(f), use_fast_impl=f)[0] for f in (True, False))
    assert fast == pytest.approx(slow, nan_ok=True)
    assert fast["AP50"] == fast["AP-car"] == 0 and np.isnan(fast["AP50-nowhere"])
