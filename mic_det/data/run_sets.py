"""The data sets that a run needs, checked before training starts."""

import os
from collections import Counter

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config import ConfigError, is_mic
from ..label_kinds import consistency_weights
from .catalog import DataError
from .labels import labels_of


def check_datasets(cfg, training=True):
    """Load every set that a run needs and compare their classes, before hours are spent.

    Args:
        cfg (CfgNode): the run's config.
        training (bool): False checks ``DATASETS.TEST`` alone.

    Returns:
        list[str]: one line a set: images, boxes, boxes per class.

    Raises:
        DataError: missing sets or files; class lists that differ from each other or from the model's number.
        ConfigError: an unknown or missing set.
    """
    labelled = [("TRAIN", n) for n in cfg.DATASETS.TRAIN] if training else []
    labelled += [("TEST", n) for n in cfg.DATASETS.TEST]
    target = [("TARGET", n) for n in cfg.DATASETS.TARGET] if training else []
    if training:
        check_roles(cfg)
    lines, kinds = [], labels_of(cfg)
    for key, name in labelled + target:
        if name not in DatasetCatalog.list():
            raise ConfigError(f"DATASETS.{key} names {name!r}, which is neither registered nor in DATASETS.DECLARED.")
        learned = kinds if key != "TARGET" else []
        for kind in learned:
            kind.prepare(name)
        dicts = DatasetCatalog.get(name)
        if not dicts:
            raise DataError(f"{name} (DATASETS.{key}) has no images.")
        missing = next((d["file_name"] for d in dicts if not os.path.isfile(d["file_name"])), None)
        if missing:
            raise DataError(f"{name} (DATASETS.{key}): image {missing} is missing.")
        classes = list(MetadataCatalog.get(name).get("thing_classes", []))
        for kind in learned:
            kind.check(key, name, dicts)
        lines.append(describe(key, name, dicts, classes))
    check_pseudo_label_set(cfg, kinds)
    return lines


def check_pseudo_label_set(cfg, kinds):
    """Whether the set of ``TEST.PSEUDO_LABELS`` exists and, where it has boxes, has the source's classes.

    Args:
        kinds (list): :func:`labels_of`, which have checked the labelled sets.
    """
    name = cfg.TEST.PSEUDO_LABELS.DATASET
    if not name:
        return
    if name not in DatasetCatalog.list():
        raise ConfigError(f"TEST.PSEUDO_LABELS.DATASET is {name!r}, neither registered nor in DATASETS.DECLARED.")
    for kind in kinds:
        kind.check_measured(name)


def check_roles(cfg):
    """The model must have the sets that it learns from, and use those that it is given."""
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty: name at least one labelled source set.")
    mic, adapts = cfg.MODEL.MIC, is_mic(cfg)
    weight = any(consistency_weights(cfg).values())
    if adapts and weight and mic.MASK.DOMAINS != "source" and not cfg.DATASETS.TARGET:
        raise ConfigError(
            "DATASETS.TARGET is empty: name a set of target images. Without one, MODEL.MIC.MASK.DOMAINS must be "
            "'source', or MODEL.MIC.CONSISTENCY.WEIGHT 0 (an EMA teacher alone)."
        )
    if cfg.DATASETS.TARGET and not adapts:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, which learns from DATASETS.TRAIN alone: "
            "set DATASETS.TARGET to (), or use MIC."
        )


def describe(key, name, dicts, classes):
    """One line on a set: its role, what it is, images, boxes and boxes per class."""
    what = MetadataCatalog.get(name).get("description")
    name = f"{name} ({what})" if what else name
    if key == "TARGET":
        return f"{key:6s} {name}: {len(dicts)} images (labels, if any, are not used)"
    boxes = Counter(a["category_id"] for d in dicts for a in d.get("annotations", []) if not a.get("iscrowd", 0))
    per_class = ", ".join(f"{c} {boxes[i]}" for i, c in enumerate(classes))
    return f"{key:6s} {name}: {len(dicts)} images, {sum(boxes.values())} boxes ({per_class})"
