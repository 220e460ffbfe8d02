"""Labelled and unlabelled images of the target domain: which image is which."""

import os

import numpy as np
from detectron2.data import DatasetCatalog, get_detection_dataset_dicts

from ..config.label_kinds import label_kinds
from ..errors import DataError
from .datasets.builtin import prepare_label_maps
from .labeller import add_labeller

LABELLED_TARGET = "labelled_target"  # the domain of these images in a batch


NEEDS = {"boxes": "boxes", "pixels": "a label map", "image_class": "a class"}  # what a labelled image has, by kind


def has_all_labels(x, kinds):
    """Whether an image has every kind of label that a model learns from: a box (no crowd), a label map, a class."""
    boxes = any(not a.get("iscrowd", 0) for a in x.get("annotations", ()))
    pixels = "pixels" in kinds and os.path.isfile(x.get("sem_seg_file_name") or "")
    found = {"boxes": boxes, "pixels": pixels, "image_class": "image_class" in x}
    return all(found[kind] for kind in kinds)


def labelled_target_images(cfg):
    """The dicts of labelled images of each set of ``DATASETS.TARGET_LABELLED``.

    Returns:
        dict[str, list[dict]]: by name of the set. ``DATASETS.TARGET_LABELLED_IMAGES`` of all sets are evenly spread.

    Raises:
        DataError: for a set without a labelled image, or with fewer in all than the number that is wanted.
    """
    kinds, found = label_kinds(cfg), []
    for name in cfg.DATASETS.TARGET_LABELLED:
        if "pixels" in kinds:
            prepare_label_maps(name)
        own = [(name, x) for x in DatasetCatalog.get(name) if has_all_labels(x, kinds)]
        if not own:
            needs = " and ".join(NEEDS[k] for k in kinds)
            raise DataError(
                f"{name} (DATASETS.TARGET_LABELLED) has no image with {needs}: label some images, or set it to ()."
            )
        found += own
    most = cfg.DATASETS.TARGET_LABELLED_IMAGES
    if found and most > len(found):
        raise DataError(
            f"DATASETS.TARGET_LABELLED_IMAGES is {most}, but {', '.join(cfg.DATASETS.TARGET_LABELLED)} has only "
            f"{len(found)} labelled images: use a smaller number, or 0 for all."
        )
    if most:
        found = [found[i] for i in np.linspace(0, len(found) - 1, most).astype(int)]
    return {name: [x for n, x in found if n == name] for name in cfg.DATASETS.TARGET_LABELLED}


def target_images(cfg, labelled=()):
    """The dicts of ``DATASETS.TARGET`` without the images that are used as labelled ones, with the labeller's boxes.

    Args:
        cfg (CfgNode): also ``MODEL.MIC.LABELLER``.
        labelled (sequence of dict): labelled images; the file tells which image it is.

    Returns:
        (list[dict], list[str]): the dicts, and lines for the log.

    Raises:
        DataError: where no image is left, or the labeller's file cannot be used.
    """
    dicts = get_detection_dataset_dicts(list(cfg.DATASETS.TARGET), filter_empty=False, check_consistency=False)
    used = {os.path.abspath(x["file_name"]) for x in labelled}
    left = [dict(x) for x in dicts if not used or os.path.abspath(x["file_name"]) not in used]
    if not left:
        raise DataError(
            f"all {len(dicts)} images of DATASETS.TARGET are labelled (DATASETS.TARGET_LABELLED), so none is left for "
            "the masked loss: add unlabelled images, or set DATASETS.TARGET to () and MODEL.MIC.CONSISTENCY.WEIGHT 0."
        )
    lines = [f"       {len(left)} images of DATASETS.TARGET are used without labels."] * (len(left) < len(dicts))
    return left, lines + add_labeller(cfg, left, dicts)
