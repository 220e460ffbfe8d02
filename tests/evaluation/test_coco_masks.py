"""Mask AP from dataset dicts is pycocotools' on the file itself, polygons and RLE alike."""

import copy
import json

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from helpers.clean_set import HEIGHT, WIDTH, CleanSet, check
from helpers.data import forget_registered_sets
from mic_det.evaluation.coco import DetectionEvaluator


def rle(content):
    for a in content["annotations"]:
        (found,) = coco_mask.frPyObjects(a["segmentation"], HEIGHT, WIDTH)
        a["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


def odd_ids(content):
    ids = {x["id"]: f"image {x['id']}" for x in content["images"]}
    for x in content["images"]:
        x["id"] = ids[x["id"]]
    for i, a in enumerate(content["annotations"]):
        a.update(id=i, image_id=ids[a["image_id"]])
        del a["area"]
        del a["iscrowd"]


@pytest.mark.parametrize("changes", [[], [rle], [odd_ids], [rle, odd_ids]])
def test_masks_and_boxes(tmp_path, changes):
    clean = CleanSet(tmp_path)
    content = copy.deepcopy(clean.content)
    for change in changes:
        change(content)
    clean.write("test.json", content)
    with forget_registered_sets():
        check(clean.config(MODEL__MASK_ON=True))
        evaluator = DetectionEvaluator("damaged", output_dir=str(tmp_path / "found"))
        evaluator.reset()
        for d in DatasetCatalog.get("damaged"):
            found = clean.predictions[d["file_name"].split("/images/")[1]]
            x = Instances((HEIGHT, WIDTH), pred_boxes=Boxes(torch.tensor([b for _, b, _ in found])))
            x.pred_classes, x.scores = (torch.tensor([f[i] for f in found]) for i in (0, 2))
            x.pred_masks = torch.zeros(len(found), HEIGHT, WIDTH, dtype=torch.bool)
            for mask, (_, box, _) in zip(x.pred_masks, found):
                x0, y0, x1, y1 = (max(0, round(v)) for v in box)
                mask[y0:y1, x0:x1] = True
            evaluator.process([d], [{"instances": x}])
        results = evaluator.evaluate()
    files = {x["id"]: x["file_name"] for x in content["images"]}
    ids = {x["file_name"]: x["id"] for x in clean.content["images"]}
    found = json.loads((tmp_path / "found/coco_instances_results.json").read_text())
    found = [{**x, "image_id": ids[files[x["image_id"]]]} for x in found]
    coco = COCO(str(tmp_path / "clean.json"))
    masks = [{k: v for k, v in x.items() if k != "bbox"} for x in found]
    judge = COCOeval(coco, coco.loadRes(masks), "segm")
    judge.evaluate(), judge.accumulate(), judge.summarize()
    assert results["segm"]["AP"] == pytest.approx(100 * judge.stats[0], abs=1e-8)
    assert results["segm"]["AP50"] == pytest.approx(100 * judge.stats[1], abs=1e-8)
    assert 10 < results["segm"]["AP"] < 90
    assert results["bbox"]["AP"] == pytest.approx(clean.expected()["AP"], abs=1e-4)
