"""What each kind of label asks of a data set: how it is prepared and checked."""

import os
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ..config import student_architecture
from ..config.label_kinds import classes_key, label_kinds, num_classes
from ..errors import DataError
from ..utils.parallel import run_parallel
from .classes import model_class_names, positions
from .datasets.builtin import prepare_label_maps
from .datasets.street_scenes import prepare_scenes
from .keypoints import check_keypoints
from .pixels import ImageError, check_image, check_label_map


class BoxLabels:
    """Boxes: annotations in Detectron2's dicts, ``thing_classes`` in the metadata."""

    name = "boxes"

    def __init__(self, cfg):
        self.cfg = cfg
        self.first = None  # name and classes of the first labelled set that was checked

    def prepare(self, name):
        """Make files of a set that can be made from others."""

    def check(self, key, name, dicts):
        """The labels of a set of ``DATASETS.<key>`` must be there, and of the model's classes.

        Raises:
            DataError: names the set and what is wrong.
        """
        self.check_classes(key, name, dicts)
        check_masks(self.cfg, key, name, dicts)
        check_keypoints(self.cfg, key, name, dicts, self.first[0])

    def check_classes(self, key, name, dicts):
        """There must be boxes to learn from, of the classes of the first set that was checked."""
        self.first = self.first or (name, _thing_classes(name))
        if key == "TRAIN" and not any(d.get("annotations") for d in dicts):
            raise DataError(f"{name} (DATASETS.{key}) has no annotations; unlabelled sets belong in DATASETS.TARGET.")
        crowds, boxes = count_crowds(dicts)
        if boxes and crowds == boxes:
            raise DataError(
                f"{name} (DATASETS.{key}): all {boxes} boxes are crowds ('iscrowd' 1), which are not learned from and "
                "count in no AP. Some programs mark every mask so: set 'iscrowd' 0 where a box is one object."
            )
        classes = self.check_same(f"DATASETS.{key}", name)
        if len(classes) != num_classes(self.cfg):
            raise DataError(
                f"{name} (DATASETS.{key}) has {len(classes)} classes {classes}, but {classes_key(self.cfg)} is "
                f"{num_classes(self.cfg)}.{_parent_hint(name)}"
            )

    def check_same(self, where, name):
        """The set's classes, which must be those of the first set that was checked.

        Raises:
            DataError: names the two sets.
        """
        classes = _thing_classes(name)
        if self.first and classes != self.first[1]:
            raise DataError(f"{name} ({where}) has the classes {classes}, but {self.first[0]} has {self.first[1]}.")
        return classes

    def check_measured(self, name):
        """As :meth:`check`, of the set of ``TEST.PSEUDO_LABELS``, which may be without labels."""
        if any(d.get("annotations") for d in DatasetCatalog.get(name)):
            self.check_same("TEST.PSEUDO_LABELS", name)

    def check_for_metrics(self, name, dicts):
        """Metrics need labels.

        Raises:
            DataError: names the set.
        """
        if not any(d.get("annotations") for d in dicts):
            raise DataError(f"{name} has no labels: AP needs a labelled set. Name one with --dataset.")

    def notes(self, name, dicts):
        """Lines on a set that can be used, but not as its owner may think."""
        return [] if count_crowds(dicts)[1] else [f"{name}: there is no box at all: AP is undefined (NaN)."]

    def notes_of_evaluation(self):
        """A line where nothing but the test set tells what the model's outputs mean."""
        test = self.cfg.DATASETS.TEST
        if model_class_names(self.cfg) or not test:
            return []
        return [
            f"       The classes of the model are taken to be those of {test[0]}, in its order: no set of "
            "DATASETS.TRAIN is here to compare them with. A checkpoint that names its classes overrules that."
        ]

    def file_problems(self, name, dicts, workers, progress):
        """What is wrong with files that hold labels alone: a list of texts."""
        return []


def count_crowds(dicts):
    """How many boxes are crowds, and how many boxes there are."""
    flags = [bool(a.get("iscrowd", 0)) for d in dicts for a in d.get("annotations", ())]
    return sum(flags), len(flags)


def _thing_classes(name):
    return list(MetadataCatalog.get(name).get("thing_classes", []))


def _stuff_classes(name):
    return list(MetadataCatalog.get(name).get("stuff_classes", []))


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
    if key != "TEST" and rle and cfg.INPUT.MASK_FORMAT == "polygon":
        d, a = rle[0]
        raise DataError(
            f"{name} (DATASETS.{key}): {len(rle)} of {len(objects)} masks are RLE, such as that of {list(a['bbox'])} "
            f"of {d['file_name']}, but INPUT.MASK_FORMAT is polygon. Set INPUT.MASK_FORMAT bitmask, which takes both."
        )


class LabelMaps:
    """Pixels: a label map for each image, ``stuff_classes`` in the metadata. See :class:`BoxLabels`."""

    name = "pixels"

    def __init__(self, cfg):
        self.cfg = cfg

    def prepare(self, name):
        prepare_label_maps(name)
        prepare_scenes(name)

    def check(self, key, name, dicts):
        classes = MetadataCatalog.get(name).get("stuff_classes", [])
        absent = next((d for d in dicts if not os.path.isfile(d.get("sem_seg_file_name") or "")), None)
        if key == "TEST" and MetadataCatalog.get(name).get("submission"):
            absent = None  # a test set without labels, whose predictions are written
        if not classes or absent:
            where = absent and absent.get("sem_seg_file_name") or f"that of {(absent or dicts[0])['file_name']}"
            raise DataError(
                f"{name} (DATASETS.{key}) lacks label maps, which {student_architecture(self.cfg)} learns from: "
                f"{where} is missing. Declare DATASETS.CUSTOM.{name}.SEM_SEG and SEM_SEG_CLASSES, or complete the "
                "folder."
            )
        if len(classes) != num_classes(self.cfg, self.name):
            raise DataError(
                f"{name} (DATASETS.{key}) has {len(classes)} classes of pixels ({', '.join(classes)}), but "
                f"{classes_key(self.cfg, self.name)} is {num_classes(self.cfg, self.name)}."
            )
        self.check_meaning(f"DATASETS.{key}", name)

    def check_meaning(self, where, name):
        """The numbers in the label maps of a set must mean what they mean for the model; with masks, boxes have one.

        Raises:
            DataError: names the first class of pixels that has another number than in ``DATASETS.TRAIN``, or the first
                class of boxes that is none of pixels, which panoptic quality needs.
        """
        classes, sets = _stuff_classes(name), self.cfg.DATASETS
        known = [n for n in (*sets.TRAIN[:1], *sets.TEST[:1]) if n in DatasetCatalog.list()]
        source = next((n for n in known if _stuff_classes(n)), name)
        wanted = _stuff_classes(source)
        moved = [c for i, (c, place) in enumerate(zip(classes, positions(classes, wanted))) if place != i]
        if moved:
            raise DataError(
                f"{name} ({where}) has the classes of pixels {classes}, but {source} has {wanted}: the label "
                f"{classes.index(moved[0])} means {moved[0]!r} in one of them alone. Labels are numbers in files, "
                "which are not mapped: give both the same SEM_SEG_CLASSES, and label maps to match."
            )
        if classes and "boxes" in label_kinds(self.cfg) and self.cfg.MODEL.MASK_ON and where == "DATASETS.TEST":
            things = _thing_classes(name)
            absent = [c for c, place in zip(things, positions(things, classes)) if place is None]
            if absent:
                raise DataError(
                    f"{name} ({where}): the class {absent[0]!r} of boxes is none of pixels ({', '.join(classes)}), "
                    "which panoptic quality needs. Add it to SEM_SEG_CLASSES and the label maps, or set "
                    "MODEL.MASK_ON False."
                )

    def check_measured(self, name):
        self.prepare(name)
        self.check_meaning("TEST.PSEUDO_LABELS.DATASET", name)

    def check_for_metrics(self, name, dicts):
        if MetadataCatalog.get(name).get("submission"):
            raise DataError(f"{name} has no labels: mIoU needs a labelled set. Name one with --dataset.")
        self.check("TEST", name, dicts)

    def notes(self, name, dicts):
        return []

    def notes_of_evaluation(self):
        return []

    def file_problems(self, name, dicts, workers, progress):
        """Label maps that are there must be readable, of their image's size and of labels below the classes."""
        head = self.cfg.MODEL.SEM_SEG_HEAD
        pairs = [(d["sem_seg_file_name"], d["file_name"]) for d in dicts if d.get("sem_seg_file_name")]
        jobs = [(file, image, head.NUM_CLASSES, head.IGNORE_VALUE) for file, image in pairs if Path(file).is_file()]
        found = run_parallel(label_map_problem, jobs, workers, f"{name} label maps", progress)
        return [f"{name}: {problem}" for problem in found if problem]


def label_map_problem(job):
    """What is wrong with (label map, its image, number of classes, ignored label), or None."""
    file, image_file, num_classes, ignored = job
    try:
        check_label_map(file, decode=True)
        with Image.open(file) as opened:
            labels = np.asarray(opened)
    except ImageError as e:
        return f"label map {file} {e}."
    try:
        size = check_image(image_file, decode=True).size[::-1]
    except ImageError as e:
        return f"the image {image_file} of label map {file} {e}."
    if labels.shape != size:
        return f"{file} has the shape {labels.shape}, its image {size}."
    wrong = labels[(labels != ignored) & ((labels < 0) | (labels >= num_classes))]
    return f"{file} has the label {wrong[0]}: there are {num_classes} classes." if wrong.size else None


class ImageClasses(BoxLabels):
    """The class of each image: ``image_class`` in Detectron2's dicts, ``thing_classes`` in the metadata."""

    name = "image_class"

    def check(self, key, name, dicts):
        self.first = self.first or (name, _thing_classes(name))
        absent = next((d for d in dicts if "image_class" not in d), None)
        if absent:
            raise DataError(
                f"{name} (DATASETS.{key}) has images without a class, such as {absent['file_name']}: an image "
                f"classifier needs a folder with one sub-folder for each class. Declare DATASETS.CUSTOM.{name} with "
                "CLASS_FOLDERS True; unlabelled sets belong in DATASETS.TARGET."
            )
        classes = self.check_same(f"DATASETS.{key}", name)
        if len(classes) != num_classes(self.cfg, self.name):
            raise DataError(
                f"{name} (DATASETS.{key}) has {len(classes)} classes ({', '.join(classes)}), but "
                f"{classes_key(self.cfg, self.name)} is {num_classes(self.cfg, self.name)}."
            )

    def check_measured(self, name):
        if all("image_class" in d for d in DatasetCatalog.get(name)):
            self.check_same("TEST.PSEUDO_LABELS", name)

    def check_for_metrics(self, name, dicts):
        self.check("TEST", name, dicts)

    def notes(self, name, dicts):
        seen, classes = {d["image_class"] for d in dicts}, _thing_classes(name)
        absent = [c for i, c in enumerate(classes) if i not in seen]
        return [f"{name}: these classes have no image, and count in no mean: {', '.join(absent)}."] if absent else []


KINDS = {kind.name: kind for kind in (BoxLabels, LabelMaps, ImageClasses)}


def labels_of(cfg):
    """The kinds of labels that the model learns from: a list of :class:`BoxLabels`, :class:`LabelMaps` or both."""
    return [KINDS[kind](cfg) for kind in label_kinds(cfg)]
