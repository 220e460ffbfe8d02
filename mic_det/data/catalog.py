"""Data sets declared in a config."""

import logging
import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..config import ConfigError
from .cityscapes_labels import SEM_SEG_CLASSES
from .coco_file import box_problems, check_annotated, read_coco
from .errors import DataError

__all__ = ["DataError", "box_problems", "load_declared", "read_coco", "register_declared_datasets", "resolve_path"]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}

_reported = set()  # (name, annotation file) of sets whose images outside their folder were reported


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
    _report_outside(name, path, folder, content["images"])
    told = {str(folder / x["file_name"]): x.get("sem_seg_file_name") for x in content["images"]}
    return _with_label_maps(_load_coco(name, path, folder, content), folder, sem_seg_folder, told)


def _with_label_maps(dicts, folder, sem_seg_folder, told=None):
    """Add ``sem_seg_file_name``: the name that the JSON tells, or the image's own with .png."""
    told = told or {}
    for x in dicts if sem_seg_folder else ():
        own = told.get(x["file_name"])
        if not own and not Path(x["file_name"]).is_relative_to(folder):
            raise DataError(
                f"image {x['file_name']} is outside {folder}, so where its label map is cannot be told: give the "
                'image a "sem_seg_file_name" in the JSON, relative to SEM_SEG.'
            )
        own = own or Path(x["file_name"]).relative_to(folder).with_suffix(".png")
        x["sem_seg_file_name"] = str(resolve_path(sem_seg_folder) / own)
    return dicts


def _report_outside(name, path, folder, images):
    """Images outside the declared folder are allowed, as sets may share them; that is told once."""
    names = [x["file_name"] for x in images if os.path.isabs(x["file_name"]) or ".." in x["file_name"]]
    places = [os.path.normpath(folder / n) for n in names]
    outside = [p for p in places if not p.startswith(os.path.join(os.path.normpath(folder), ""))]
    if outside and (name, path) not in _reported:
        _reported.add((name, path))
        logging.getLogger(__name__).warning(
            "%s: %d of %d images of %s are outside its folder %s, such as %s.",
            name, len(outside), len(images), path, folder, outside[0],
        )  # fmt: skip


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
    check_annotated(name, path, content)
    try:
        return load_coco_json(str(path), str(folder), name)
    except (AssertionError, KeyError, TypeError, ValueError) as e:
        raise DataError(f"{name}: {path} is not a valid COCO file ({e}).") from e


def _list_images(name, folder):
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{name}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) below {folder}.")
    return [{"file_name": str(p), "image_id": i} for i, p in enumerate(files)]
