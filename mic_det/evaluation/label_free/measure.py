"""All criteria of one model on a list of images."""

import logging
from dataclasses import dataclass, field
from typing import Optional

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from ...config.label_kinds import label_kinds, num_classes
from ...config.roles import label_free_set
from ...data.mapper import DomainMapper
from ...modeling import MIC
from ...modeling.tasks import RCNNTask
from .criteria import CRITERIA
from .maps import map_rows, predicts_boxes
from .passes import look, true_box_features
from .ranking import COMBINATION, combined

VIEW_NAMES = ("flip", "masked", "noise", "dropout", "other")


@dataclass
class Images:
    """Images as a model takes them, read once for all checkpoints: ``items`` are (name, (3, H, W)) pairs.

    ``boxes`` and ``classes`` are the true ones of a labelled set, in pixels of the model's input; None else.
    """

    items: list
    boxes: Optional[list] = None
    classes: Optional[list] = None

    def __len__(self):
        return len(self.items)


@dataclass
class Source:
    """What a detector makes of the labelled source: ``counts`` (K,), ``prototypes`` (K, D); None = not known."""

    counts: Optional[np.ndarray] = None
    prototypes: Optional[np.ndarray] = None


@dataclass
class Measured:
    """Statistics (N, k) of each criterion that could be measured on N images, and their values."""

    statistics: dict
    source: Source
    values: dict = field(default_factory=dict)

    def __post_init__(self):
        self.values = {name: self.value(name, rows.sum(axis=0)) for name, rows in self.statistics.items()}

    def value(self, name, total):
        """A criterion's value for a sum of rows of its statistics."""
        return CRITERIA[name].value(total, self.source)

    def __len__(self):
        return len(next(iter(self.statistics.values())))


def evenly(items, most):
    """At most ``most`` of the items, evenly spread; 0 = all."""
    if not most or len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).astype(int)]


def read_unlabelled(cfg, dicts):
    """Target images at the size of evaluation, without their labels.

    Args:
        cfg (CfgNode): of the model.
        dicts (list[dict]): Detectron2's dataset dicts.
    """
    mapper = DomainMapper(cfg, is_train=False, domain="target")
    return Images([(d.get("image_id", d["file_name"]), mapper(d)["image"]) for d in dicts])


def read_labelled(cfg, dicts):
    """As :func:`read_unlabelled`, with true boxes; crowds are none."""
    mapper, images = DomainMapper(cfg, is_train=False), Images([], [], [])
    for d in dicts:
        mapped = mapper(d)
        truth = [a for a in d.get("annotations", ()) if not a.get("iscrowd", 0)]
        boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in truth]
        height, width = mapped["image"].shape[-2:]
        scale = np.array([width / mapped["width"], height / mapped["height"]] * 2)
        images.items.append((d["image_id"], mapped["image"]))
        images.boxes.append(np.array(boxes, float).reshape(-1, 4) * scale)
        images.classes.append(np.array([a["category_id"] for a in truth], int))
    return images


def dicts_of(name, most=0):
    """At most ``most`` dicts of a registered set, evenly spread."""
    return evenly(DatasetCatalog.get(name), most)


def needs_source(criteria):
    """Whether any of these criteria (names) compares with the source."""
    return any(need.startswith("source") for name in criteria for need in CRITERIA[name].needs)


def read_source(cfg, most):
    """At most ``most`` labelled images with boxes of the first set of ``DATASETS.TRAIN``; None for 0."""
    if not most or not cfg.DATASETS.TRAIN:
        return None
    labelled = [d for d in DatasetCatalog.get(cfg.DATASETS.TRAIN[0]) if d.get("annotations")]
    return read_labelled(cfg, evenly(labelled, most))


def measure_label_free(cfg, model):
    """The criteria of the score on the images of ``TEST.LABEL_FREE``, as :class:`Measured`.

    Args:
        cfg (CfgNode): also ``TEST.LABEL_FREE``.
        model (nn.Module): MIC or a plain model, not wrapped for distributed training.
    """
    keys = cfg.TEST.LABEL_FREE
    target = read_unlabelled(cfg, dicts_of(label_free_set(cfg), keys.MAX_IMAGES))
    source = read_source(cfg, keys.SOURCE_IMAGES) if needs_source(COMBINATION) else None
    return measure(model, target, num_classes(cfg, judged_kind(cfg)), source, tuple(COMBINATION))


def label_free_results(measured, lost=None):
    """``score`` (higher is better) and the values of its criteria, as dict[str, float]. They are logged.

    Args:
        measured (Measured): of one model.
        lost (sequence): the classes of the start that the model has lost: with any, the score is 0. None = there is no
            start.
    """
    results = {"score": 0.0 if lost else combined(measured.values), **measured.values}
    if lost is not None:
        results["lost_classes"] = len(lost)
    text = ", ".join(f"{k} {v:.3f}" for k, v in results.items())
    logging.getLogger(__name__).info("Without labels, on %d target images: %s", len(measured), text)
    return results


def judged_kind(cfg):
    """The kind of predictions whose criteria are measured: boxes, if the model predicts any."""
    kinds = label_kinds(cfg)
    return "boxes" if "boxes" in kinds else kinds[0]


def two_detectors(model):
    """The detector that is evaluated and the other one of a MIC; a plain detector has None."""
    if not isinstance(model, MIC):
        return model, None
    model.update_teacher()
    pair = model.teacher, model.student
    return pair[::-1] if model.evaluate == "student" else pair


def same_weights(first, second):
    """Whether two detectors of one architecture predict the same: their agreement would say nothing."""
    other = second.state_dict()
    return all((x == other[k]).all() for k, x in first.state_dict().items())


def measure(model, images, count, source=None, criteria=tuple(CRITERIA), after_image=None):
    """Measure a model on target images.

    Args:
        model (nn.Module): MIC or a plain model. One with boxes and label maps is measured by its boxes.
        images (Images): N target images; their labels, if any, are not used.
        count (int): K, the number of classes.
        source (Images): labelled source images; None leaves the criteria out that need them.
        criteria (sequence of str): names of :data:`CRITERIA`.
        after_image (callable): called after each image.

    Returns:
        Measured: without criteria that this model or these data do not allow.
    """
    detector, other = two_detectors(model)
    was_training = detector.training, other is not None and other.training
    detector.eval()
    if other is not None:
        other.eval()
        if same_weights(detector, other):  # the start of an adaptation: a copy
            other = None
    asked = {need for name in criteria for need in CRITERIA[name].needs}
    if predicts_boxes(detector):
        views = look(detector, images.items, other, [v for v in VIEW_NAMES if v in asked], after_image)
        measured = _of_boxes(detector, views, count, source, criteria, after_image)
    else:
        measured = Measured(map_rows(detector, images.items, other, criteria, after_image), Source())
    if other is not None:
        other.train(was_training[1])
    detector.train(was_training[0])
    return measured


def _of_boxes(detector, views, count, source, criteria, after_image):
    asked = {need for name in criteria for need in CRITERIA[name].needs}
    reference = Source()
    if source is not None and len(source):
        if "source_counts" in asked:
            reference.counts = np.bincount(np.concatenate(source.classes), minlength=count) / len(source)
        if "source_features" in asked and RCNNTask.applies_to(detector):
            reference.prototypes = prototypes(detector, source, count, after_image)
    there = {*views, *(["source_counts"] if reference.counts is not None else [])}
    there |= {"source_features"} if reference.prototypes is not None else set()
    first = views["whole"][0]
    there |= {x for x in ("probs", "features", "removed") if getattr(first, x) is not None}
    usable = [name for name in criteria if there.issuperset(CRITERIA[name].needs)]
    return Measured({name: CRITERIA[name].statistics(views, count) for name in usable}, reference)


def prototypes(detector, source, count, after_image=None):
    """Mean features (K, D) of the true boxes of each class; NaN where it has none."""
    total, boxes_of = None, np.zeros(count)
    for (_, image), boxes, classes in zip(source.items, source.boxes, source.classes):
        if len(boxes):
            features = true_box_features(detector, image, boxes)
            total = np.zeros((count, features.shape[1])) if total is None else total
            np.add.at(total, classes, features)
            np.add.at(boxes_of, classes, 1)
        if after_image:
            after_image()
    if total is None:
        return None
    with np.errstate(invalid="ignore"):
        return total / boxes_of[:, None]
