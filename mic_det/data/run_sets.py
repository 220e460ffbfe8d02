"""The data sets that a run needs, checked before training starts."""

import os
from collections import Counter

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config import ConfigError, is_mic, needs_boxes, needs_sem_seg, student_architecture
from ..ordinary_files import absence
from .builtin import prepare_label_maps
from .catalog import DataError
from .classes import class_names, positions
from .coco_normalize import MANY_CROWDS
from .image_names import FilesOnDisk


def check_datasets(cfg, training=True):
    """Load every set that a run needs and compare their classes, before hours are spent.

    Args:
        cfg (CfgNode): the run's config.
        training (bool): False checks ``DATASETS.TEST`` alone.

    Returns:
        list[str]: one line a set: images, boxes, boxes per class.

    Raises:
        DataError: missing sets or files; class lists that differ from each other or from
            ``MODEL.ROI_HEADS.NUM_CLASSES``.
        ConfigError: an unknown or missing set.
    """
    labelled = [("TRAIN", n) for n in cfg.DATASETS.TRAIN] if training else []
    labelled += [("TEST", n) for n in cfg.DATASETS.TEST]
    target = [("TARGET", n) for n in cfg.DATASETS.TARGET] if training else []
    if training:
        check_roles(cfg)
    lines, first = [], None
    for key, name in labelled + target:
        if name not in DatasetCatalog.list():
            raise ConfigError(f"DATASETS.{key} names {name!r}, which is neither registered nor in DATASETS.DECLARED.")
        if needs_sem_seg(cfg) and key != "TARGET":
            prepare_label_maps(name)
        dicts = DatasetCatalog.get(name)
        if not dicts:
            raise DataError(f"{name} (DATASETS.{key}) has no images.")
        missing = [d["file_name"] for d in dicts if not os.path.isfile(d["file_name"])]
        if missing:
            more = f" So are {len(missing) - 1} more." if len(missing) > 1 else ""
            hint = missing_image_hint(name)(missing[0])
            raise DataError(f"{name} (DATASETS.{key}): image {missing[0]} {absence(missing[0])}.{hint}{more}")
        classes = list(MetadataCatalog.get(name).get("thing_classes", []))
        if key != "TARGET":
            if needs_boxes(cfg):
                first = first or (name, classes)
                check_classes(cfg, key, name, classes, first, dicts)
                check_masks(cfg, key, name, dicts)
            if needs_sem_seg(cfg):
                check_label_maps(cfg, key, name, dicts)
                check_pixel_classes(cfg, f"DATASETS.{key}", name)
        lines.append(describe(key, name, dicts, classes))
        if key != "TARGET":
            lines += [f"       {note}" for note in labels_notes(name, dicts)]
            if needs_boxes(cfg) and not _crowds(dicts)[1]:
                lines.append(f"       {name}: there is no box at all: AP is undefined (NaN).")
    check_pseudo_label_set(cfg, first)
    if not training and needs_boxes(cfg):
        lines += unknown_classes_note(cfg)
    return lines


def missing_image_hint(name):
    """A function of a missing image's path: a sentence on the file on the disk that may be meant, or ""."""
    root = MetadataCatalog.get(name).get("image_root")
    if not root:
        return lambda file: ""
    files = FilesOnDisk(root)
    return lambda file: files.hint(file[len(root) + 1 :] if file.startswith(f"{root}{os.sep}") else file)


def labels_notes(name, dicts):
    """What is reported of a labelled set: what was read otherwise than written, and many crowds."""
    crowds, boxes = _crowds(dicts)
    notes = list(MetadataCatalog.get(name).get("repairs") or [])
    if MANY_CROWDS * boxes < crowds < boxes:  # a set of crowds alone is refused
        notes.append(
            f"{crowds} of {boxes} boxes are crowds ('iscrowd' 1): they are not learned from, and count in no AP. Some "
            "programs mark every mask so; set 'iscrowd' 0 where a box is one object."
        )
    return [f"{name}: {note}" for note in notes]


def _crowds(dicts):
    flags = [bool(a.get("iscrowd", 0)) for d in dicts for a in d.get("annotations", ())]
    return sum(flags), len(flags)


def unknown_classes_note(cfg):
    """A line where nothing but the test set tells what the model's outputs mean."""
    source = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    if source and class_names(source) or not cfg.DATASETS.TEST:
        return []
    return [
        f"       The classes of the model are taken to be those of {cfg.DATASETS.TEST[0]}, in its order: no set of "
        "DATASETS.TRAIN is here to compare them with. A checkpoint that names its classes overrules that."
    ]


def what_is_read(name, dicts):
    """Files of a set and, where it is a folder of images, the folder: what is written there becomes part of the set."""
    metadata = MetadataCatalog.get(name)
    files = [d[k] for d in dicts for k in ("file_name", "sem_seg_file_name") if d.get(k)]
    return [*files, metadata.get("json_file") or metadata.get("image_root") or ""]


def check_pseudo_label_set(cfg, first):
    """Whether the set of ``TEST.PSEUDO_LABELS`` exists and, where it has boxes, has the source's classes.

    Args:
        first ((str, list[str]) or None): name and classes of the first labelled set.
    """
    name = cfg.TEST.PSEUDO_LABELS.DATASET
    if not name:
        return
    if name not in DatasetCatalog.list():
        raise ConfigError(f"TEST.PSEUDO_LABELS.DATASET is {name!r}, neither registered nor in DATASETS.DECLARED.")
    if needs_sem_seg(cfg):
        prepare_label_maps(name)
        check_pixel_classes(cfg, "TEST.PSEUDO_LABELS.DATASET", name)
    labelled = any(d.get("annotations") for d in DatasetCatalog.get(name))
    classes = list(MetadataCatalog.get(name).get("thing_classes", []))
    if labelled and first and classes != first[1]:
        raise DataError(f"{name} (TEST.PSEUDO_LABELS) has the classes {classes}, but {first[0]} has {first[1]}.")


def check_roles(cfg):
    """The model must have the sets that it learns from, and use those that it is given."""
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty: name at least one labelled source set.")
    mic, adapts = cfg.MODEL.MIC, is_mic(cfg)
    weight = mic.CONSISTENCY.WEIGHT * needs_boxes(cfg) or mic.SEM_SEG.WEIGHT * needs_sem_seg(cfg)
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


def check_classes(cfg, key, name, classes, first, dicts):
    if key == "TRAIN" and not any(d.get("annotations") for d in dicts):
        raise DataError(f"{name} (DATASETS.{key}) has no annotations; unlabelled sets belong in DATASETS.TARGET.")
    crowds, boxes = _crowds(dicts)
    if boxes and crowds == boxes:
        raise DataError(
            f"{name} (DATASETS.{key}): all {boxes} boxes are crowds ('iscrowd' 1), which are not learned from and "
            "count in no AP. Some programs mark every mask so: set 'iscrowd' 0 where a box is one object."
        )
    if classes != first[1]:
        raise DataError(f"{name} (DATASETS.{key}) has the classes {classes}, but {first[0]} has {first[1]}.")
    if len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise DataError(
            f"{name} (DATASETS.{key}) has {len(classes)} classes {classes}, but MODEL.ROI_HEADS.NUM_CLASSES is "
            f"{cfg.MODEL.ROI_HEADS.NUM_CLASSES}.{_parent_hint(name)}"
        )


def _parent_hint(name):
    parent = MetadataCatalog.get(name).get("unused_parent")
    if not parent:
        return ""
    return (
        f" {parent!r} has no box and is the 'supercategory' of the others, as some programs export it: remove it from "
        "'categories', or count it."
    )


def check_masks(cfg, key, name, dicts):
    """With ``MODEL.MASK_ON``, every object of a labelled set must have a mask that can be learned or evaluated.

    Raises:
        DataError: names the first image, its box, and how many there are.
    """
    if not cfg.MODEL.MASK_ON:
        return
    objects = [(d, a) for d in dicts for a in d.get("annotations", ()) if key == "TEST" or not a.get("iscrowd", 0)]
    without = [(d, a) for d, a in objects if not a.get("segmentation")]
    if without:
        d, a = without[0]
        raise DataError(
            f"{name} (DATASETS.{key}): {len(without)} of {len(objects)} boxes have no usable mask, such as "
            f"{list(a['bbox'])} of {d['file_name']}, but MODEL.MASK_ON needs one of each. Complete them, remove those "
            "boxes, or set MODEL.MASK_ON False."
        )
    rle = [(d, a) for d, a in objects if isinstance(a["segmentation"], dict)]
    if key == "TRAIN" and rle and cfg.INPUT.MASK_FORMAT == "polygon":
        d, a = rle[0]
        raise DataError(
            f"{name} (DATASETS.{key}): {len(rle)} of {len(objects)} masks are RLE, such as that of {list(a['bbox'])} "
            f"of {d['file_name']}, but INPUT.MASK_FORMAT is polygon. Set INPUT.MASK_FORMAT bitmask, which takes both."
        )


def check_label_maps(cfg, key, name, dicts):
    """Every image of a set must have a label map, of as many classes as the model has.

    Raises:
        DataError: names the set and the first file that is missing.
    """
    classes = MetadataCatalog.get(name).get("stuff_classes", [])
    absent = next((d for d in dicts if not os.path.isfile(d.get("sem_seg_file_name") or "")), None)
    if not classes or absent:
        where = absent and absent.get("sem_seg_file_name") or f"that of {(absent or dicts[0])['file_name']}"
        raise DataError(
            f"{name} (DATASETS.{key}) lacks label maps, which {student_architecture(cfg)} learns from: {where} is "
            f"missing. Declare DATASETS.DECLARED.{name}.SEM_SEG and SEM_SEG_CLASSES, or complete the folder."
        )
    if len(classes) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise DataError(
            f"{name} (DATASETS.{key}) has {len(classes)} classes of pixels ({', '.join(classes)}), but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}."
        )


def check_pixel_classes(cfg, key, name):
    """The numbers in the label maps of a set must mean what they mean for the model; with masks, boxes have a number.

    Raises:
        DataError: names the first class of pixels that has another number than in ``DATASETS.TRAIN``, or the first
            class of boxes that is none of pixels, which panoptic quality needs.
    """
    classes = list(MetadataCatalog.get(name).get("stuff_classes", []))
    known = [n for n in (*cfg.DATASETS.TRAIN[:1], *cfg.DATASETS.TEST[:1]) if n in DatasetCatalog.list()]
    source = next((n for n in known if MetadataCatalog.get(n).get("stuff_classes")), name)
    wanted = list(MetadataCatalog.get(source).get("stuff_classes", []))
    moved = [c for i, (c, place) in enumerate(zip(classes, positions(classes, wanted))) if place != i]
    if moved:
        raise DataError(
            f"{name} ({key}) has the classes of pixels {classes}, but {source} has {wanted}: the label "
            f"{classes.index(moved[0])} means {moved[0]!r} in one of them alone. Labels are numbers in files, which "
            "are not mapped: give both the same SEM_SEG_CLASSES, and label maps to match."
        )
    if classes and needs_boxes(cfg) and cfg.MODEL.MASK_ON and key == "DATASETS.TEST":
        things = list(MetadataCatalog.get(name).get("thing_classes", []))
        absent = [c for c, place in zip(things, positions(things, classes)) if place is None]
        if absent:
            raise DataError(
                f"{name} ({key}): the class {absent[0]!r} of boxes is none of pixels ({', '.join(classes)}), which "
                "panoptic quality needs. Add it to SEM_SEG_CLASSES and the label maps, or set MODEL.MASK_ON False."
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
