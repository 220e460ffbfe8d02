"""What each kind of label asks of a data set: how it is prepared and checked."""

import os
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ..config import student_architecture
from ..label_kinds import classes_key, label_kinds, num_classes
from .builtin import prepare_label_maps
from .catalog import DataError
from .parallel import run_parallel
from .pixels import check_label_pixels


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
        if key == "TRAIN" and not any(d.get("annotations") for d in dicts):
            raise DataError(f"{name} (DATASETS.{key}) has no annotations; unlabelled sets belong in DATASETS.TARGET.")
        classes = self.check_same(f"DATASETS.{key}", name, first_is_this=True)
        if len(classes) != num_classes(self.cfg):
            raise DataError(
                f"{name} (DATASETS.{key}) has {len(classes)} classes {classes}, but {classes_key(self.cfg)} is "
                f"{num_classes(self.cfg)}."
            )

    def check_same(self, where, name, first_is_this=False):
        """The set's classes, which must be those of the first set that was checked.

        Raises:
            DataError: names the two sets.
        """
        classes = list(MetadataCatalog.get(name).get("thing_classes", []))
        if first_is_this:
            self.first = self.first or (name, classes)
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

    def file_problems(self, name, dicts, workers, progress):
        """What is wrong with files that hold labels alone: a list of texts."""
        return []


class LabelMaps:
    """Pixels: a label map for each image, ``stuff_classes`` in the metadata. See :class:`BoxLabels`."""

    name = "pixels"

    def __init__(self, cfg):
        self.cfg = cfg

    def prepare(self, name):
        prepare_label_maps(name)

    def check(self, key, name, dicts):
        classes = MetadataCatalog.get(name).get("stuff_classes", [])
        absent = next((d for d in dicts if not os.path.isfile(d.get("sem_seg_file_name") or "")), None)
        if not classes or absent:
            where = absent and absent.get("sem_seg_file_name") or f"that of {(absent or dicts[0])['file_name']}"
            raise DataError(
                f"{name} (DATASETS.{key}) lacks label maps, which {student_architecture(self.cfg)} learns from: "
                f"{where} is missing. Declare DATASETS.DECLARED.{name}.SEM_SEG and SEM_SEG_CLASSES, or complete the "
                "folder."
            )
        if len(classes) != num_classes(self.cfg, self.name):
            raise DataError(
                f"{name} (DATASETS.{key}) has {len(classes)} classes of pixels ({', '.join(classes)}), but "
                f"{classes_key(self.cfg, self.name)} is {num_classes(self.cfg, self.name)}."
            )

    def check_measured(self, name):
        self.prepare(name)

    def check_for_metrics(self, name, dicts):
        self.check("TEST", name, dicts)

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
        check_label_pixels(file)
        with Image.open(file) as opened:
            labels = np.asarray(opened)
        with Image.open(image_file) as opened:
            size = opened.size[::-1]
    except (OSError, SyntaxError, ValueError) as e:
        return f"{file} or its image {image_file} cannot be read ({e})."
    if labels.shape != size:
        return f"{file} has the shape {labels.shape}, its image {size}."
    wrong = labels[(labels != ignored) & ((labels < 0) | (labels >= num_classes))]
    return f"{file} has the label {wrong[0]}: there are {num_classes} classes." if wrong.size else None


KINDS = {kind.name: kind for kind in (BoxLabels, LabelMaps)}


def labels_of(cfg):
    """The kinds of labels that the model learns from: a list of :class:`BoxLabels`, :class:`LabelMaps` or both."""
    return [KINDS[kind](cfg) for kind in label_kinds(cfg)]
