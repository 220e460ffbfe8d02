"""Labeller files from true boxes with controlled errors."""

import contextlib
import io
import json

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.coco.annotation_file import is_labelled, read_coco
from ..data.coco.normalize import read_normalized
from ..errors import DataError
from ..experiments.label_noise import LEVELS, Noise, noisy_results
from ..utils.outputs import Outputs


def main(args):
    content = read_coco("--annotations", args.annotations)
    if not is_labelled(content):
        raise DataError(f"--annotations {args.annotations} has no boxes: name a file with 'annotations'.")
    coco = read_normalized("--annotations", args.annotations, content)
    own = {k: getattr(args, k) for k in ("misses", "false_boxes", "jitter") if getattr(args, k) is not None}
    levels = {"custom": Noise(**own)} if own else {f"level_{k}": noise for k, noise in LEVELS.items()}
    outputs = Outputs(args.output, "noisy_labels", [args.annotations], args.overwrite)
    outputs.check([f"{name}.json" for name in levels])
    images = [{**x, "boxes": _boxes(coco, x["id"])} for x in coco.images]
    print("| file | misses | false boxes | jitter | boxes | AP50 |\n|---|---|---|---|---|---|")
    for name, noise in levels.items():
        results = noisy_results(images, noise, args.seed)
        outputs.write_text(f"{name}.json", json.dumps(results))
        ap50 = average_precision(images, coco.category_ids, results)
        print(f"| {name}.json | {noise.misses} | {noise.false_boxes} | {noise.jitter} | {len(results)} | {ap50:.1f} |")


def _boxes(coco, image_id):
    return [
        (a["bbox"], coco.category_ids[a["category_id"]]) for a in coco.annotations[image_id] if not a.get("iscrowd", 0)
    ]


def average_precision(images, category_ids, results):
    """AP50 in per cent of results against the ``boxes`` of images, by pycocotools."""
    truth = [
        {"image_id": x["id"], "bbox": list(b), "category_id": c, "area": b[2] * b[3], "iscrowd": 0}
        for x in images for b, c in x["boxes"]
    ]  # fmt: skip
    whole = {
        "images": [{k: x[k] for k in ("id", "width", "height")} for x in images],
        "annotations": [{**a, "id": i + 1} for i, a in enumerate(truth)],
        "categories": [{"id": i, "name": str(i)} for i in category_ids],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables
        coco = COCO()
        coco.dataset = whole
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.params.iouThrs = np.array([0.5])
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][0, :, :, 0, -1]
    return 100 * float(precision[precision > -1].mean())
