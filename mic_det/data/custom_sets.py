"""Data sets declared in a config."""

import functools
import logging
import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config.label_kinds import has_class_names
from ..errors import ConfigError, DataError
from .classes import expect_classes, set_metadata, with_model_classes
from .coco.annotation_file import (
    check_categories,
    is_id,
    is_labelled,
    is_size,
    read_coco,
)
from .coco.normalize import in_order, read_normalized
from .datasets.cityscapes_labels import SEM_SEG_CLASSES
from .datasets.image_folders import register_class_folders
from .files import IMAGE_SUFFIXES, list_images
from .keypoints import set_keypoint_metadata
from .paths import expanded, resolve_path

__all__ = ["DataError", "expanded", "load_declared", "read_coco", "register_declared_datasets", "resolve_path"]

_reported = set()  # (name, annotation file) of sets whose images outside their folder were reported


def register_declared_datasets(cfg):
    """Register every set of ``DATASETS.CUSTOM``. The disk is not touched until a set is loaded.

    Declaring a name again with the same content is fine; with other content it replaces the set. A set that is a
    target alone is loaded without its annotations, whatever they are. The classes of all labelled sets are those of the
    first one of ``DATASETS.TRAIN``, in its order; without one, ``DATASETS.CLASS_NAMES`` or those of the first set of
    ``DATASETS.TARGET_LABELLED``.

    Raises:
        ConfigError: where a declared name is one that was registered elsewhere.
    """
    targets, has_labeller = targets_alone(cfg), bool(cfg.MODEL.MIC.LABELLER.JSON)
    for name, entry in cfg.DATASETS.CUSTOM.items():
        declared = (str(entry.get("JSON", "")), str(entry.IMAGES), str(entry.get("SEM_SEG", "")))
        if name in DatasetCatalog.list():
            if MetadataCatalog.get(name).get("declared") is None:
                raise ConfigError(f"DATASETS.CUSTOM.{name}: a data set of this name exists already; use another.")
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        with_labels = name not in targets
        if entry.get("CLASS_FOLDERS"):
            register_class_folders(name, entry.IMAGES, with_labels, declared=declared)
            continue
        keys = {"labelled": with_labels, "true_ids": has_labeller and not with_labels}
        DatasetCatalog.register(name, functools.partial(load_declared, name, *declared, **keys))
        MetadataCatalog.get(name).set(declared=declared, evaluator_type="coco", **_coco_metadata(*declared[:2]))
        if declared[0] and (with_labels or has_labeller):
            read = functools.partial(read_categories, name, resolve_path(declared[0]), annotated=with_labels)
            MetadataCatalog.get(name).set(read_categories=read)
        if declared[2]:
            classes = entry.SEM_SEG_CLASSES
            classes = list(SEM_SEG_CLASSES) if classes == "cityscapes" else [str(c) for c in classes]
            MetadataCatalog.get(name).set(stuff_classes=classes, ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    if has_class_names(cfg) and not cfg.DATASETS.TRAIN and cfg.DATASETS.CLASS_NAMES:
        expect_classes(classes=list(cfg.DATASETS.CLASS_NAMES), except_for=targets)
        return
    labelled = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TARGET_LABELLED)
    expect_classes(labelled[0] if labelled and has_class_names(cfg) else None, except_for=targets)


def targets_alone(cfg):
    """The sets of ``DATASETS.TARGET`` whose annotations nothing uses: neither training, evaluation nor analysis."""
    used = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TARGET_LABELLED, *cfg.DATASETS.TEST, cfg.TEST.PSEUDO_LABELS.DATASET}
    return set(cfg.DATASETS.TARGET) - used


def _coco_metadata(json_file, image_folder):
    if not json_file:
        return {"image_root": str(resolve_path(image_folder))}
    return {"json_file": str(resolve_path(json_file)), "image_root": str(resolve_path(image_folder))}


def load_declared(name, json_file, image_folder, sem_seg_folder="", labelled=True, true_ids=False):
    """Dataset dicts of one declared set, in Detectron2's format.

    Args:
        name (str): the set's name; its metadata gets ``thing_classes`` where there are categories.
        json_file (str): COCO annotations, "" for a folder of unlabelled images.
        image_folder (str): where the images are.
        sem_seg_folder (str): where their label maps are, "" for none; see ``DATASETS.CUSTOM``.
        labelled (bool): False for a target set: its annotations are not looked at.
        true_ids (bool): for a target set: its images have the ids of the JSON or, where it has none, their names. Else
            they are counted. Results of another detector are for such ids.

    Raises:
        DataError: for a missing or empty folder, a missing or unreadable JSON, boxes without area or
            far outside their image, categories that do not fit.
    """
    folder = resolve_path(image_folder)
    if not folder.is_dir():
        raise DataError(f"{name}: there is no image folder {folder}. Set DATASETS.CUSTOM.{name}.IMAGES.")
    if not json_file:
        return _with_label_maps(_list_images(name, folder, true_ids), folder, sem_seg_folder)
    path = resolve_path(json_file)
    content = read_coco(name, path, labelled)
    _report_outside(name, path, folder, content["images"])
    told = {str(folder / x["file_name"]): x.get("sem_seg_file_name") for x in content["images"]}
    if labelled and is_labelled(content):
        dicts = load_annotated(name, path, folder, content)
    else:
        dicts = _unlabelled(content["images"], folder, labelled, true_ids)
    return _with_label_maps(dicts, folder, sem_seg_folder, told)


def _with_label_maps(dicts, folder, sem_seg_folder, told=None):
    """Add ``sem_seg_file_name``: the name that the JSON tells, or the image's own with .png."""
    told = told or {}
    for x in dicts if sem_seg_folder else ():
        own = told.get(x["file_name"])
        if not own and not Path(x["file_name"]).is_relative_to(folder):
            raise DataError(
                f"image {x['file_name']} is outside {folder}, so its label map cannot be found: give the "
                'image a "sem_seg_file_name" in the JSON, relative to SEM_SEG.'
            )
        own = own or Path(x["file_name"]).relative_to(folder).with_suffix(".png")
        x["sem_seg_file_name"] = str(resolve_path(sem_seg_folder) / own)
    return dicts


def load_annotated(name, path, folder, content):
    """Dataset dicts of an annotated COCO file, with the model's classes; see :class:`NormalizedCoco`.

    The set's metadata gets ``thing_classes``, ``thing_dataset_id_to_contiguous_id``, ``repairs`` (lines for the log)
    and, where its categories name them, the keypoints (:mod:`.keypoints`).

    Raises:
        DataError: names the first entry that cannot be used.
    """
    coco = read_normalized(name, path, content)
    dicts = coco.dicts(str(folder))
    mapped = with_model_classes(name, dicts, coco.classes, coco.category_ids)
    set_metadata(name, repairs=coco.repairs + mapped, unused_parent=coco.unused_parent or None)
    set_keypoint_metadata(name, content["categories"])
    return dicts


def read_categories(name, path, annotated=True):
    """(id, name) of the classes of a COCO file, in the order of their ids; boxes and images are not looked at.

    Args:
        annotated (bool): False for a set whose own labels are not used: its file need not have annotations.

    Returns:
        list[(int or str, str)]: empty where it has none.

    Raises:
        DataError: where it cannot be read.
    """
    content = read_coco(name, path)
    if not is_labelled(content) and (annotated or not content.get("categories")):
        return []
    check_categories(name, path, content)
    return [(x["id"], x["name"].strip()) for x in in_order(content["categories"])]


def _unlabelled(images, folder, labelled, true_ids):
    """Dicts without annotations. A target's need not have ids or sizes that are right: the files tell those."""
    given = [x.get("id") for x in images]
    if true_ids and not (all(map(is_id, given)) and len(set(given)) == len(given)):
        given = [x["file_name"] for x in images]
    return [
        {
            "file_name": str(folder / x["file_name"]),
            "image_id": given[i] if labelled or true_ids else i,
            **({k: x[k] for k in ("height", "width")} if all(is_size(x.get(k)) for k in ("height", "width")) else {}),
        }
        for i, x in enumerate(images)
    ]


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


def _list_images(name, folder, by_name=False):
    files = list_images(folder)
    if not files:
        raise DataError(f"{name}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) below {folder}.")
    return [
        {"file_name": str(p), "image_id": p.relative_to(folder).as_posix() if by_name else i}
        for i, p in enumerate(files)
    ]
