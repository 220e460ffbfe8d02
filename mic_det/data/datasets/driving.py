"""Other driving data sets of the field's benchmarks, read as they are unpacked: Sim10k, KITTI, BDD100K.

- ``sim10k_car``: ``sim10k/VOC2012/{Annotations,JPEGImages}`` (VOC XML), class car.
- ``kitti_car``: ``kitti/training/{image_2,label_2}`` (text), class car; vans are none, "DontCare" is crowd.
- ``bdd100k_{day,night}_{train,val}``: ``bdd100k/images/100k/{train,val}`` with the box labels of 2018
  (``labels/bdd100k_labels_images_{split}.json``) or of 2020 (``labels/det_20/det_{split}.json``), by
  ``timeofday``; Cityscapes' eight classes, whose other names there (motor, bike, pedestrian, ...) are mapped.

All are below ``$DETECTRON2_DATASETS``. Sim10k and KITTI go with ``cityscapes_car_{train,val}`` as target.
"""

import functools
import json
import math
from xml.etree import ElementTree

from detectron2.structures import BoxMode

from ...errors import DataError
from ...utils.ordinary_files import (
    absence,
    check_ordinary,
    is_ordinary,
    open_picture,
    read_text,
)
from ..classes import set_metadata, with_model_classes
from .cityscapes_labels import THING_CLASSES
from .unpacked import register_set, set_files, set_folder

CAR = ("car",)
BDD_CLASSES = {
    **{name: name for name in THING_CLASSES},
    "motor": "motorcycle",
    "bike": "bicycle",
    "pedestrian": "person",
    "other person": "person",
}
BDD_LABELS = ("bdd100k_labels_images_{}.json", "det_20/det_{}.json", "det_v2_{}_release.json")
TIMES = {"day": "daytime", "night": "night"}


def register_driving():
    """Register the sets above; the disk is not touched until one is loaded."""
    sets = {
        "sim10k_car": (CAR, load_sim10k, "Sim10k, cars"),
        "kitti_car": (CAR, load_kitti, "KITTI, cars"),
    }
    for time in TIMES:
        for split in ("train", "val"):
            load = functools.partial(load_bdd100k, time=time, split=split)
            sets[f"bdd100k_{time}_{split}"] = (THING_CLASSES, load, f"BDD100K {split}, {TIMES[time]}")
    for name, (classes, load, description) in sets.items():
        metadata = {"thing_classes": list(classes), "evaluator_type": "coco", "description": description}
        register_set(name, functools.partial(_load, name, load, classes), **metadata)


def _load(name, load, classes):
    dicts = load(name)
    set_metadata(name, repairs=with_model_classes(name, dicts, list(classes)))
    return dicts


def load_sim10k(name="sim10k_car"):
    """Cars of Sim10k (Johnson-Roberson et al., 2017) as dataset dicts; ``difficult`` ones are kept, as published.

    Raises:
        DataError: where a folder or an image is missing, or an XML file cannot be read; names it.
    """
    root = set_folder(name, "sim10k/VOC2012")
    dicts = []
    for file in set_files(name, root / "Annotations", "*.xml"):
        try:
            check_ordinary(file)
            tree = ElementTree.parse(file).getroot()
            size = [int(tree.findtext(f"size/{k}")) for k in ("width", "height")]
            boxes = []
            for item in tree.iter("object"):
                if item.findtext("name") == "car":
                    # VOC counts pixels from 1 and includes the last
                    x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
                    boxes.append(([x0 - 1, y0 - 1, x1, y1], 0, 0))
        except (ElementTree.ParseError, TypeError, ValueError, OSError) as e:
            raise DataError(f"{name}: {file} is not a readable VOC annotation ({e}). Unpack it again.") from e
        dicts.append(_dict(name, root / "JPEGImages" / f"{file.stem}.jpg", len(dicts), size, boxes))
    return dicts


def load_kitti(name="kitti_car"):
    """Cars of KITTI's object benchmark (Geiger et al., 2012) as dataset dicts; "DontCare" regions are crowd.

    Raises:
        DataError: where a folder or an image is missing, or a label file cannot be read; names it.
    """
    root = set_folder(name, "kitti/training")
    dicts = []
    for file in set_files(name, root / "label_2", "*.txt"):
        boxes = []
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            fields = line.split()
            if fields and fields[0] in ("Car", "DontCare"):
                try:
                    boxes.append(([float(v) for v in fields[4:8]], 0, int(fields[0] == "DontCare")))
                except ValueError as e:
                    raise DataError(f"{name}: {file}, line {number} has no box ({e}). Unpack it again.") from e
        image = root / "image_2" / f"{file.stem}.png"
        dicts.append(_dict(name, image, len(dicts), None, boxes))
    return dicts


def load_bdd100k(name, time, split):
    """BDD100K (Yu et al., 2020) of one time of day ("day", "night") and split as dataset dicts.

    Raises:
        DataError: where a folder or an image is missing, or the label file is; names it.
    """
    root = set_folder(name, "bdd100k")
    files = [root / "labels" / pattern.format(split) for pattern in BDD_LABELS]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise DataError(f"{name}: there is no label file {files[0]} (2018) or {files[1]} (2020). Unpack it there.")
    dicts = []
    try:
        for frame in json.loads(read_text(file)):
            if (frame.get("attributes") or {}).get("timeofday") != TIMES[time]:
                continue
            boxes = []
            for item in frame.get("labels") or []:
                label = BDD_CLASSES.get(item["category"])
                if label and item.get("box2d"):
                    box = [float(item["box2d"][k]) for k in ("x1", "y1", "x2", "y2")]
                    crowd = (item.get("attributes") or {}).get("crowd", False)
                    boxes.append((box, THING_CLASSES.index(label), int(bool(crowd))))
            image = root / "images" / "100k" / split / frame["name"]
            dicts.append(_dict(name, image, len(dicts), (1280, 720), boxes))
    except (KeyError, TypeError, ValueError, OSError, AttributeError) as e:
        raise DataError(f"{name}: {file} is not a readable BDD100K label file ({type(e).__name__}: {e}).") from e
    return dicts


def _dict(name, image, image_id, size, boxes):
    """One dataset dict; boxes (XYXY, class, crowd) without area are left out."""
    if not is_ordinary(image):
        raise DataError(f"{name}: image {image} {absence(image)}, though it is annotated. Unpack the images again.")
    if size is None:
        try:
            with open_picture(image) as opened:
                size = opened.size
        except (OSError, SyntaxError) as e:
            raise DataError(f"{name}: image {image} cannot be read ({e}). Unpack it again.") from e
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "iscrowd": crowd}
        for box, label, crowd in boxes
        if all(map(math.isfinite, box)) and box[2] > box[0] and box[3] > box[1]
    ]
    return {
        "file_name": str(image), "image_id": image_id, "width": size[0], "height": size[1], "annotations": annotations
    }  # fmt: skip
