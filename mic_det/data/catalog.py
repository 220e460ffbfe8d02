"""Data sets declared in a config."""

import json
import math
import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..config import ConfigError
from .cityscapes_labels import SEM_SEG_CLASSES

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}


class DataError(RuntimeError):
    """A data set that cannot be used; the message names the file and says what to do."""


def resolve_path(path):
    """Absolute paths as they are; others below ``$DETECTRON2_DATASETS`` (default ``./datasets``)."""
    path = Path(os.path.expandvars(os.path.expanduser(path)))
    root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    return path if path.is_absolute() else Path(root) / path


def register_declared_datasets(cfg):
    """Register every set of ``DATASETS.DECLARED``. The disk is not touched until a set is loaded.

    Declaring a name again with the same content is fine; with other content it replaces the set.

    Raises:
        ConfigError: where a declared name is one that was registered elsewhere.
    """
    for name, entry in cfg.DATASETS.DECLARED.items():
        declared = (str(entry.get("JSON", "")), str(entry.IMAGES), str(entry.get("SEM_SEG", "")))
        if name in DatasetCatalog.list():
            if MetadataCatalog.get(name).get("declared") is None:
                raise ConfigError(f"DATASETS.DECLARED.{name}: a data set of this name exists already; use another.")
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, lambda n=name, d=declared: load_declared(n, *d))
        MetadataCatalog.get(name).set(declared=declared, evaluator_type="coco", **_coco_metadata(*declared[:2]))
        if declared[2]:
            classes = entry.SEM_SEG_CLASSES
            classes = list(SEM_SEG_CLASSES) if classes == "cityscapes" else [str(c) for c in classes]
            MetadataCatalog.get(name).set(stuff_classes=classes, ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)


def _coco_metadata(json_file, image_folder):
    if not json_file:
        return {"image_root": str(resolve_path(image_folder))}
    return {"json_file": str(resolve_path(json_file)), "image_root": str(resolve_path(image_folder))}


def load_declared(name, json_file, image_folder, sem_seg_folder=""):
    """Dataset dicts of one declared set, in Detectron2's format.

    Args:
        name (str): the set's name; its metadata gets ``thing_classes`` where there are categories.
        json_file (str): COCO annotations, "" for a folder of unlabelled images.
        image_folder (str): where the images are.
        sem_seg_folder (str): where their label maps are, "" for none; see ``DATASETS.DECLARED``.

    Raises:
        DataError: for a missing or empty folder, a missing or unreadable JSON, boxes without area or
            far outside their image, categories that do not fit.
    """
    folder = resolve_path(image_folder)
    if not folder.is_dir():
        raise DataError(f"{name}: there is no image folder {folder}. Set DATASETS.DECLARED.{name}.IMAGES.")
    if not json_file:
        return _with_label_maps(_list_images(name, folder), folder, sem_seg_folder)
    path = resolve_path(json_file)
    content = read_coco(name, path)
    told = {str(folder / x["file_name"]): x.get("sem_seg_file_name") for x in content["images"]}
    return _with_label_maps(_load_coco(name, path, folder, content), folder, sem_seg_folder, told)


def _with_label_maps(dicts, folder, sem_seg_folder, told=None):
    """Add ``sem_seg_file_name``: the name that the JSON tells, or the image's own with .png."""
    told = told or {}
    for x in dicts if sem_seg_folder else ():
        own = Path(x["file_name"]).relative_to(folder).with_suffix(".png")
        x["sem_seg_file_name"] = str(resolve_path(sem_seg_folder) / (told.get(x["file_name"]) or own))
    return dicts


def _load_coco(name, path, folder, content):
    if "annotations" not in content or "categories" not in content:
        return [
            {
                "file_name": str(folder / x["file_name"]),
                "image_id": x["id"],
                **{k: x[k] for k in ("height", "width") if k in x},
            }
            for x in content["images"]
        ]
    _check_boxes(name, path, content)
    try:
        return load_coco_json(str(path), str(folder), name)
    except (AssertionError, KeyError, TypeError, ValueError) as e:
        raise DataError(f"{name}: {path} is not a valid COCO file ({e}).") from e


def read_coco(name, path):
    """Parse a COCO file and check that it has images; see :func:`load_declared` for errors."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{name}: there is no annotation file {path}. Set DATASETS.DECLARED.{name}.JSON.") from None
    except (OSError, ValueError) as e:
        raise DataError(f"{name}: {path} is not a readable JSON file ({e}).") from e
    images = content.get("images") if isinstance(content, dict) else None
    if not images or not isinstance(images, list):
        raise DataError(f"{name}: {path} lists no images; a COCO file needs a non-empty list 'images'.")
    _check_fields(f"{name}: {path}", "images", images, ("id", "file_name"))
    return content


def _check_fields(where, key, entries, fields):
    """Each entry must have ``fields``; the first that has not is shown."""
    for entry in entries:
        missing = next((f for f in fields if not isinstance(entry, dict) or f not in entry), None)
        if missing:
            raise DataError(f"{where} has an entry of {key!r} without {missing!r}: {str(entry)[:120]}")


def _list_images(name, folder):
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{name}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) below {folder}.")
    return [{"file_name": str(p), "image_id": i} for i, p in enumerate(files)]


def _check_boxes(name, path, content):
    """Boxes must have a positive area and overlap their image; the first offender is named."""
    file = f"{name}: {path}"
    _check_fields(file, "images", content["images"], ("width", "height"))
    _check_fields(file, "categories", content["categories"], ("id", "name"))
    _check_fields(file, "annotations", content["annotations"], ("id", "image_id", "category_id", "bbox"))
    if not content["categories"]:
        raise DataError(f"{file} defines no classes: fill 'categories', or leave it out if the set is unlabelled.")
    problem = next(box_problems(name, path, content), None)
    if problem:
        raise DataError(problem)


def box_problems(name, path, content):
    """One message for each annotation of a COCO file that cannot be used."""
    images = {x["id"]: x for x in content["images"]}
    categories = {x["id"] for x in content["categories"]}
    for annotation in content["annotations"]:
        problem = _box_problem(annotation, images, categories)
        if problem:
            yield f"{name}: annotation {annotation.get('id')} of {path} {problem}"


def _box_problem(annotation, images, categories):
    image, box = images.get(annotation["image_id"]), annotation["bbox"]
    if image is None:
        return f"belongs to image {annotation['image_id']}, which the file does not list."
    if annotation["category_id"] not in categories:
        return f"has category {annotation['category_id']}, which the file does not define."
    numbers = isinstance(box, list) and all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)
    if not numbers or len(box) != 4:
        return f"has the bbox {box!r}: it must be four numbers [x, y, width, height] in pixels."
    x, y, w, h = box
    if not (w > 0 and h > 0):
        return f"({image['file_name']}) has a box without area: {box}. Remove it."
    if x >= image["width"] or y >= image["height"] or x + w <= 0 or y + h <= 0:
        return (
            f"({image['file_name']}, {image['width']} x {image['height']}) has a box outside the image: {box}. "
            "Boxes are (x, y, width, height) in pixels."
        )
    return None
