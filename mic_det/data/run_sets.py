"""The data sets that a run needs, checked before training starts."""

import os
from collections import Counter

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config.roles import check_roles, label_free_set
from ..errors import ConfigError, DataError
from ..utils.ordinary_files import absence
from .classes import model_class_names
from .coco.image_names import FilesOnDisk
from .coco.normalize import MANY_CROWDS
from .label_checks import count_crowds, labels_of
from .target_labels import labelled_target_images, target_images


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
    labelled = [(key, n) for key in ("TRAIN", "TARGET_LABELLED") for n in cfg.DATASETS[key]] if training else []
    labelled += [("TEST", n) for n in cfg.DATASETS.TEST]
    target = [("TARGET", n) for n in cfg.DATASETS.TARGET] if training else []
    if training:
        check_roles(cfg)
    lines, kinds, chosen = [], labels_of(cfg), {}
    for key, name in labelled + target:
        if name not in DatasetCatalog.list():
            raise ConfigError(f"DATASETS.{key} names {name!r}, which is neither registered nor in DATASETS.CUSTOM.")
    for key, name in labelled + target:
        learned = kinds if key != "TARGET" else []
        for kind in learned:
            kind.prepare(name)
        dicts = DatasetCatalog.get(name)
        if not dicts:
            raise DataError(f"{name} (DATASETS.{key}) has no images.")
        missing = [d["file_name"] for d in dicts if not os.path.isfile(d["file_name"])]
        if missing:
            more = f" So are {len(missing) - 1} more." if len(missing) > 1 else ""
            hint = missing_image_hint(name)(missing[0])
            raise DataError(f"{name} (DATASETS.{key}): image {missing[0]} {absence(missing[0])}.{hint}{more}")
        classes = list(MetadataCatalog.get(name).get("thing_classes", []))
        if key == "TARGET_LABELLED":
            chosen = chosen or labelled_target_images(cfg)
            dicts = chosen[name]
        for kind in learned:
            kind.check(key, name, dicts)
        lines.append(describe(key, name, dicts, classes))
        if key != "TARGET":
            lines += [f"       {note}" for kind in learned for note in kind.notes(name, dicts)]
            lines += [f"       {note}" for note in labels_notes(name, dicts)]
    check_pseudo_label_set(cfg, kinds)
    if training and cfg.DATASETS.TARGET:
        used = [x for dicts in chosen.values() for x in dicts]
        lines += target_images(cfg, used)[1]
    check_label_free_set(cfg)
    if not training or not model_class_names(cfg):
        lines += [note for kind in kinds for note in kind.notes_of_evaluation()]
    return lines


def expect_registered(where, name):
    """Refuse the name of a set that does not exist. ``where`` (str): the key or the option that names it.

    Raises:
        ConfigError
    """
    if name not in DatasetCatalog.list():
        raise ConfigError(f"{where} is {name!r}, neither registered nor in DATASETS.CUSTOM.")


def missing_image_hint(name):
    """A function of a missing image's path: a sentence on the file on the disk that may be meant, or ""."""
    root = MetadataCatalog.get(name).get("image_root")
    if not root:
        return lambda file: ""
    files = FilesOnDisk(root)
    return lambda file: files.hint(file[len(root) + 1 :] if file.startswith(f"{root}{os.sep}") else file)


def labels_notes(name, dicts):
    """What is reported of a labelled set: what was read otherwise than written, and many crowds."""
    crowds, boxes = count_crowds(dicts)
    notes = list(MetadataCatalog.get(name).get("repairs") or [])
    if MANY_CROWDS * boxes < crowds < boxes:  # a set of crowds alone is refused
        notes.append(
            f"{crowds} of {boxes} boxes are crowds ('iscrowd' 1): they are not learned from, and count in no AP. Some "
            "programs mark every mask so; set 'iscrowd' 0 where a box is one object."
        )
    return [f"{name}: {note}" for note in notes]


def what_is_read(name, dicts):
    """Files of a set and, where it is a folder of images, the folder: what is written there becomes part of the set."""
    metadata = MetadataCatalog.get(name)
    files = [d[k] for d in dicts for k in ("file_name", "sem_seg_file_name") if d.get(k)]
    return [*files, metadata.get("json_file") or metadata.get("image_root") or ""]


def check_pseudo_label_set(cfg, kinds):
    """Whether the set of ``TEST.PSEUDO_LABELS`` exists and, where it has boxes, has the source's classes.

    Args:
        kinds (list): :func:`labels_of`, which have checked the labelled sets.
    """
    name = cfg.TEST.PSEUDO_LABELS.DATASET
    if not name:
        return
    expect_registered("TEST.PSEUDO_LABELS.DATASET", name)
    for kind in kinds:
        kind.check_measured(name)


def check_label_free_set(cfg):
    """Whether the set of ``TEST.LABEL_FREE`` exists and has images."""
    if not cfg.TEST.LABEL_FREE.ENABLED:
        return
    name = label_free_set(cfg)
    if name != cfg.TEST.LABEL_FREE.DATASET:  # a set of the training, which is checked as such
        return
    expect_registered("TEST.LABEL_FREE.DATASET", name)
    if not DatasetCatalog.get(name):
        raise DataError(f"{name} (TEST.LABEL_FREE.DATASET) has no images.")


def describe(key, name, dicts, classes):
    """One line on a set: its role, what it is, images, boxes and boxes per class."""
    what = MetadataCatalog.get(name).get("description")
    name = f"{name} ({what})" if what else name
    if key == "TARGET":
        return f"{key:6s} {name}: {len(dicts)} images (labels, if any, are not used)"
    if any("image_class" in d for d in dicts):
        images = Counter(d["image_class"] for d in dicts)
        per_class = ", ".join(f"{c} {images[i]}" for i, c in enumerate(classes))
        return f"{key:6s} {name}: {len(dicts)} images ({per_class})"
    if not classes:
        return f"{key:6s} {name}: {len(dicts)} images"
    boxes = Counter(a["category_id"] for d in dicts for a in d.get("annotations", []) if not a.get("iscrowd", 0))
    per_class = ", ".join(f"{c} {boxes[i]}" for i, c in enumerate(classes))
    return f"{key:6s} {name}: {len(dicts)} images, {sum(boxes.values())} boxes ({per_class})"
