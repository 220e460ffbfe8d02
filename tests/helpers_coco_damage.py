"""A small labelled set with predictions, and the ways in which annotation programs write its COCO file otherwise."""

import codecs
import copy
import json
import unicodedata
import uuid
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
        sets = {"DATASETS__DECLARED": sets, "DATASETS__TRAIN": ["clean"], "DATASETS__TEST": ["damaged"]}
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
    return check_datasets(cfg, training=False)


# ------------------------------------------------------------------------- ways to write the same


def all_annotations(key, value):
    """Set a key of each annotation; ``value`` may be a function of its number and its old value."""

    def change(content, rng):
        for i, a in enumerate(content["annotations"]):
            a[key] = value(i, a.get(key)) if callable(value) else value

    return change


def some_annotations(key, value):
    """Of a random half of the annotations."""

    def change(content, rng):
        for a in content["annotations"]:
            if rng.random() < 0.5:
                a[key] = copy.deepcopy(value)

    return change


def without(key):
    def change(content, rng):
        for a in content["annotations"]:
            a.pop(key, None)

    return change


def image_ids(new):
    def change(content, rng):
        ids = {x["id"]: new(i, x) for i, x in enumerate(content["images"])}
        for x in content["images"]:
            x["id"] = ids[x["id"]]
        for a in content["annotations"]:
            a["image_id"] = ids[a["image_id"]]

    return change


def category_ids(new):
    def change(content, rng):
        ids = {x["id"]: new(i, x) for i, x in enumerate(content["categories"])}
        for x in content["categories"]:
            x["id"] = ids[x["id"]]
        for a in content["annotations"]:
            a["category_id"] = ids[a["category_id"]]

    return change


def names(new):
    def change(content, rng):
        for x in content["categories"]:
            x["name"] = new(x["name"])

    return change


def supercategory(content, rng):
    for x in content["categories"]:
        x["supercategory"] = "vehicles"
    content["categories"].insert(0, {"id": -1, "name": "vehicles", "supercategory": "none"})


def shuffled(key):
    return lambda content, rng: rng.shuffle(content[key])


SAME = {
    "annotation ids from 0": all_annotations("id", lambda i, _: i),
    "annotation ids of text": all_annotations("id", lambda i, _: f"f30{i}-ab"),
    "annotation ids of UUIDs": all_annotations("id", lambda i, _: str(uuid.UUID(int=i * 2**90))),
    "annotation ids of 64 bits": all_annotations("id", lambda i, _: 2**63 - 1 - i),
    "annotation ids of more than 64 bits": all_annotations("id", lambda i, _: 10**25 + i),
    "annotation ids the same": some_annotations("id", 7),
    "annotation ids null": all_annotations("id", None),
    "annotation ids absent": without("id"),
    "image ids of text": image_ids(lambda i, x: f"seq-{i}"),
    "image ids of 19 digits": image_ids(lambda i, x: 10**19 - 1 - 7 * i),
    "image ids of mixed types": image_ids(lambda i, x: i if i % 2 else f"seq-{i}"),
    "image ids from 0": image_ids(lambda i, x: i),
    "image ids negative": image_ids(lambda i, x: -i),
    "image ids with a point": image_ids(lambda i, x: float(i + 1)),
    "no area": without("area"),
    "area null": some_annotations("area", None),
    "area 0": all_annotations("area", 0),
    "area of text": all_annotations("area", lambda i, a: str(a)),
    "no iscrowd": without("iscrowd"),
    "iscrowd null": some_annotations("iscrowd", None),
    "iscrowd false": all_annotations("iscrowd", False),
    "iscrowd '0'": some_annotations("iscrowd", "0"),
    "iscrowd 'False'": some_annotations("iscrowd", "False"),
    "no info": lambda content, rng: content.pop("info", None),
    "info and licenses null": lambda content, rng: content.update(info=None, licenses=None),
    "no segmentation": without("segmentation"),
    "segmentation null": some_annotations("segmentation", None),
    "segmentation empty": some_annotations("segmentation", []),
    "polygon empty": some_annotations("segmentation", [[]]),
    "polygon of two points": some_annotations("segmentation", [[1, 1, 9, 9]]),
    "polygon flat": some_annotations("segmentation", [[1, 1, 5, 5, 9, 9]]),
    "polygon as one list": some_annotations("segmentation", [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]),
    "polygon of an odd number": some_annotations("segmentation", [[1, 1, 9, 1, 9, 9, 4]]),
    "polygon of text": some_annotations("segmentation", [["1", "1", "9", "1", "9", "9"]]),
    "RLE of another size": some_annotations("segmentation", {"counts": [10, 90], "size": [10, 10]}),
    "RLE that is cut": some_annotations("segmentation", {"counts": [10, 90], "size": [HEIGHT, WIDTH]}),
    "RLE without size": some_annotations("segmentation", {"counts": "abc"}),
    "classes in another order": category_ids(lambda i, x: 9 - i),
    "class ids of text": category_ids(lambda i, x: "zyx"[i % 3] + str(i)),
    "class names in capitals": names(str.upper),
    "class names with spaces": names(lambda n: f" {n}  "),
    "an extra first category": supercategory,
    "images in another order": shuffled("images"),
    "annotations in another order": shuffled("annotations"),
}

# ------------------------------------------------------------------------- what must be refused


def one_annotation(key, value):
    """Of the last one, whose entry the message must name."""

    def change(content, rng):
        content["annotations"][-1][key] = value
        return [entry_of(content, -1), key if key != "bbox" else "box"]

    return change


def entry_of(content, index):
    """How messages call an annotation."""
    a = content["annotations"][index]
    number = range(len(content["annotations"]))[index]
    return f"annotation {a['id']} " if "id" in a else f"entry {number} of 'annotations'"


def normalized(content, rng):
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]
    return ["between 0 and 1", entry_of(content, 0).strip()]


def corners(content, rng):
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x, y, x + w, y + h]
    return ["corners (x0, y0, x1, y1)", "annotation"]


def other_type(content, rng):
    """Image ids are text in one place and numbers in the other."""
    for i, x in enumerate(content["images"]):
        for a in content["annotations"]:
            if a["image_id"] == x["id"]:
                a["image_id"] = str(i + 1)
        x["id"] = i + 1
    return [entry_of(content, 0), f"{content['annotations'][0]['image_id']!r} (text)", "(a number)"]


def all_crowds(content, rng):
    all_annotations("iscrowd", 1)(content, rng)
    return ["all 25 boxes are crowds", "damaged"]


def class_twice(content, rng):
    first = content["categories"][-1]
    content["categories"].append({"id": 77, "name": first["name"].strip()})
    return ["two categories of the name", repr(first["name"].strip()), "77"]


def unknown_class(content, rng):
    content["categories"].append({"id": 78, "name": "tram"})
    content["annotations"][0]["category_id"] = 78
    return ["damaged has the classes", "'tram'"]


def file_names(new):
    def change(content, rng):
        for x in content["images"]:
            x["file_name"] = new(x["file_name"])
        return ["is missing", "Is ", "meant", "/Allée_0.png meant"]

    return change


REFUSED = {
    "boxes between 0 and 1": normalized,
    "boxes as corners": corners,
    "image ids of two types": other_type,
    "iscrowd 1 everywhere": all_crowds,
    "iscrowd 'maybe'": one_annotation("iscrowd", "maybe"),
    "iscrowd 2": one_annotation("iscrowd", 2),
    "iscrowd a list": one_annotation("iscrowd", [1]),
    "a class twice": class_twice,
    "an unknown class": unknown_class,
    "a box without a width": one_annotation("bbox", [1, 2, 0, 9]),
    "a box of text": one_annotation("bbox", ["1", "2", "3", "4"]),
    "an empty box": one_annotation("bbox", []),
    "file names with back-slashes": file_names(lambda n: n.replace("/", "\\")),
    "file names with a drive": file_names(lambda n: "C:\\data\\" + n.replace("/", "\\")),
    "file names of URLs": file_names(lambda n: "https://host.example/a/" + n.replace(" ", "%20") + "?v=1#x"),
    "file names quoted": file_names(lambda n: n.replace(" ", "%20").replace("é", "%C3%A9")),
    "file names in NFD": file_names(lambda n: unicodedata.normalize("NFD", n)),
    "file names in capitals": file_names(lambda n: n.replace("drive", "Drive")),
    "file names with a folder more": file_names(lambda n: f"/home/somebody/images/{n}"),
    "file names with another suffix": file_names(lambda n: n.replace(".png", ".JPG")),
}
