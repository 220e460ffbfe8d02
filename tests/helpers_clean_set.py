"""A small labelled set with predictions, and what pycocotools says of them."""

import codecs
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from helpers_data import load, tiny_config, write_image
from mic_det.data.run_sets import check_datasets
from mic_det.evaluation.coco import DetectionEvaluator

CLASSES = ("car", "bus", "traffic light")
WIDTH, HEIGHT, IMAGES = 200, 150, 5
FILES = [f"drive {i // 3}/Allée_{i}.png" for i in range(IMAGES)]


class CleanSet:
    """``clean.json``, images, and predictions of a detector whose outputs are :data:`CLASSES` in this order."""

    def __init__(self, folder):
        self.folder = Path(folder)
        rng = np.random.default_rng(3)
        for file in FILES:
            write_image(self.folder / "images" / file, rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8))
        annotations, self.predictions = [], {file: [] for file in FILES}
        for i, file in enumerate(FILES):
            for k in range(5):
                w, h = (int(v) for v in rng.integers(12, 60, 2))
                x, y = int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h))
                label = (i + k) % len(CLASSES)
                corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": i + 1, "category_id": label + 1, "bbox": [x, y, w, h],
                     "area": w * h, "iscrowd": 0, "segmentation": [corners]}
                )  # fmt: skip
                for _ in range(2):
                    box = np.array([x, y, x + w, y + h]) + rng.normal(0, 0.1, 4) * [w, h, w, h]
                    found = label if rng.random() < 0.8 else int(rng.integers(len(CLASSES)))
                    self.predictions[file].append((found, box.tolist(), float(rng.random())))
        images = [{"id": i + 1, "file_name": f, "width": WIDTH, "height": HEIGHT} for i, f in enumerate(FILES)]
        categories = [{"id": i + 1, "name": n} for i, n in enumerate(CLASSES)]
        self.content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
        self.content["categories"] = categories
        self.write("clean.json", self.content)

    def write(self, name, content, bom=False):
        text = json.dumps(content, ensure_ascii=False).encode("utf-8")
        (self.folder / name).write_bytes(codecs.BOM_UTF8 * bom + text)
        return self.folder / name

    def config(self, **keys):
        """A config that trains on ``clean.json`` and tests on ``test.json``."""
        sets = {n: {"JSON": str(self.folder / f"{f}.json"), "IMAGES": str(self.folder / "images")}
                for n, f in (("clean", "clean"), ("damaged", "test"))}  # fmt: skip
        sets = {"DATASETS__CUSTOM": sets, "DATASETS__TRAIN": ["clean"], "DATASETS__TEST": ["damaged"]}
        return load(self.folder, tiny_config(self.folder, self.folder / "output", **{**sets, **keys}))

    def evaluate(self, fast):
        """What mic_det says of the predictions on the registered ``damaged``, and its results file."""
        evaluator = DetectionEvaluator("damaged", output_dir=str(self.folder / "found"), use_fast_impl=fast)
        evaluator.reset()
        for d in DatasetCatalog.get("damaged"):
            found = self.predictions[str(Path(d["file_name"]).relative_to(self.folder / "images"))]
            x = Instances((HEIGHT, WIDTH))
            x.pred_classes = torch.tensor([c for c, _, _ in found])
            x.pred_boxes = Boxes(torch.tensor([b for _, b, _ in found]))
            x.scores = torch.tensor([s for _, _, s in found])
            evaluator.process([d], [{"instances": x}])
        return evaluator.evaluate()["bbox"], json.loads((self.folder / "found/coco_instances_results.json").read_text())

    def expected(self):
        """AP of the clean file by pycocotools alone."""
        coco = COCO(str(self.folder / "clean.json"))
        numbers = {f: i + 1 for i, f in enumerate(FILES)}
        results = [
            {"image_id": numbers[f], "category_id": c + 1, "score": s, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for f, found in self.predictions.items()
            for c, (x0, y0, x1, y1), s in found
        ]
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate(), judge.accumulate(), judge.summarize()
        by_class = judge.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
        keys = dict(zip(("AP", "AP50", "AP75"), judge.stats))
        keys.update({f"AP-{c}": v for c, v in zip(CLASSES, by_class)})
        return {k: 100 * v for k, v in keys.items()}

    def by_name(self, content, results):
        """(file, folded class name, rounded x and y) of each result, by the ids of the damaged file."""
        files = {x["id"]: x["file_name"] for x in content["images"]}
        names = {x["id"]: x["name"].strip().lower() for x in content["categories"]}
        return {(files[r["image_id"]], names[r["category_id"]], round(r["bbox"][0], 2)) for r in results}

    def predicted_by_name(self):
        return {(f, CLASSES[c], round(b[0], 2)) for f, found in self.predictions.items() for c, b, _ in found}

    def check_same_numbers(self, content, evaluators=(True, False)):
        """Both evaluators must find the clean file's AP, and results must have the ids of the damaged file.

        Training and pictures see what is evaluated.
        """
        boxes = [(d["file_name"], *a["bbox"]) for d in DatasetCatalog.get("damaged") for a in d["annotations"]]
        files = {x["id"]: str(self.folder / "images" / x["file_name"]) for x in self.content["images"]}
        assert sorted(boxes) == sorted((files[a["image_id"]], *a["bbox"]) for a in self.content["annotations"])
        for fast in evaluators:
            numbers, results = self.evaluate(fast)
            for key, value in self.expected().items():
                assert abs(numbers[key] - value) < 1e-4, (key, numbers[key], value, fast)
            assert self.by_name(content, results) == self.predicted_by_name()
        assert 10 < numbers["AP"] < 90


def check(cfg):
    """What is reported before an evaluation."""
    return check_datasets(cfg, training=False)
