"""The task for boxes of Faster, Mask and Keypoint R-CNN. L_S also trains instance masks and keypoints; L_M can train
them, too."""

import copy
from dataclasses import dataclass, field
from typing import Callable, Optional

import torch
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.cascade_rcnn import CascadeROIHeads
from detectron2.modeling.roi_heads.keypoint_head import BaseKeypointRCNNHead
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.utils.events import get_event_storage

from ...config.label_kinds import box_section, num_classes
from ...data.keypoints import keypoint_classes
from ...data.labeller import LABELLER
from ...utils.step_timer import record
from ..box_fusion import LabellerFusion
from ..pseudo_labels import select_pseudo_boxes, undecided_boxes, weighted_keypoints
from ..regions import rpn_predictions, supervised_roi_losses
from ..thresholds import AdaptiveThresholds
from .base import Task
from .region_consistency import ConsistencyWeights, masked_consistency_losses
from .region_sampling import MaskedViews, pseudo_targets, true_targets
from .region_teacher import RegionTeacher


@dataclass
class PseudoBoxes:
    """Pseudo-boxes of N target images, in the frame of the student's views.

    ``boxes`` are N ``Instances`` (``gt_boxes``, ``gt_classes``, ``scores``, with masks
    ``mask_probs``, with keypoints ``keypoints``). ``background_prob`` takes N box tensors
    (R_i, 4) and returns N tensors (R_i,), the teacher's probability that a region is background. ``detections`` are the
    N ``Instances`` from which they were selected. ``soft_teacher`` has the outputs for soft targets. ``undecided`` are
    N tensors of :func:`undecided_boxes`, or None where the task does not look for them.
    """

    boxes: list = field(default_factory=list)
    background_prob: Optional[Callable] = None
    detections: list = field(default_factory=list)
    soft_teacher: Optional[RegionTeacher] = None
    undecided: Optional[list] = None


class BoxTask(Task):
    """The common part of all tasks for boxes: selection, thresholds and logging of pseudo-boxes."""

    name = "boxes"

    def __init__(
        self, *, select=None, empty_images="skip", weights=None, thresholds=None, ignore_score=0.0, labeller=None
    ):
        """
        Args:
            select (dict): arguments of :func:`select_pseudo_boxes`; None = score threshold 0.8.
            empty_images (str): images without pseudo-boxes: "skip" them, or train them as "background".
            weights (ConsistencyWeights): weights of the terms of L_M.
            thresholds (AdaptiveThresholds): replace the score threshold; None = the constant score threshold.
            ignore_score (float): detections from this score on that are not pseudo-boxes are undecided; 0 = none.
            labeller (LabellerFusion): how the boxes of another labeller (``x["labeller"]``) join the teacher's
                detections; None = there is none.
        """
        self.labeller = labeller
        self.select = {"score_threshold": 0.8, **(select or {})}
        self.empty_images = empty_images
        self.weights = weights or ConsistencyWeights()
        self.module = thresholds
        self.ignore_score = ignore_score

    @classmethod
    def from_config(cls, cfg, **others):
        p, c = cfg.MODEL.MIC.PSEUDO_BOXES, cfg.MODEL.MIC.CONSISTENCY
        start, thresholds = p.SCORE_THRESHOLD_PER_CLASS or p.SCORE_THRESHOLD, None
        if p.ADAPT != "none":
            thresholds = AdaptiveThresholds(start, num_classes(cfg), p.ADAPT_BOUNDS, p.ADAPT_MOMENTUM)
        select = dict(
            score_threshold=start, nms_threshold=p.NMS_THRESHOLD,
            max_boxes=p.MAX_PER_IMAGE, min_size=p.MIN_SIZE,
        )  # fmt: skip
        weights = ConsistencyWeights(
            c.RPN_CLS_WEIGHT, c.ROI_CLS_WEIGHT, c.RPN_BOX_REG_WEIGHT, c.ROI_BOX_REG_WEIGHT, c.QUALITY, c.TARGETS,
            mask=c.MASK_WEIGHT, keypoint=c.KEYPOINT_WEIGHT,
        )  # fmt: skip
        return cls(
            select=select, empty_images=c.EMPTY_IMAGES, weights=weights, thresholds=thresholds,
            ignore_score=p.IGNORE_SCORE, labeller=LabellerFusion.from_config(cfg), **others,
        )  # fmt: skip

    def classes_key(self, model):
        return f"MODEL.{box_section(type(model))}.NUM_CLASSES"

    def truth(self, inputs, device):
        return [x["instances"].to(device) for x in inputs]

    def check_inputs(self, target):
        if self.labeller is not None and any(LABELLER not in x for x in target):
            raise ValueError(
                f'a target image has no "{LABELLER}", the boxes of MODEL.MIC.LABELLER: map it with DomainMapper.'
            )

    def no_pseudo_labels(self):
        return PseudoBoxes()

    def detections(self, model, view, **computed):
        """All detections of a model in a :class:`TeacherView`, in the frame of the student's views.

        ``computed`` are further arguments of :meth:`predict`: outputs that have been computed before.
        """
        found = self.predict(model, view.images, view.features, **computed)
        for instances, size, (sx, sy) in zip(found, view.sizes, view.scales):
            instances.pred_boxes.scale(1 / sx, 1 / sy)
            instances._image_size = size
        return found

    @property
    def selection(self):
        """Current arguments of :func:`select_pseudo_boxes`."""
        return {**self.select, "score_threshold": self.module.values} if self.module is not None else self.select

    def pseudo_labels(self, model, view, **computed):
        found = self.detections(model, view, **computed)
        if self.labeller is not None and self.labeller.active(view.step):
            # evaluation has no boxes of the labeller: it measures the model alone
            found = [self.labeller(y, x[LABELLER]) if LABELLER in x else y for x, y in zip(view.inputs, found)]
        with record("pseudo-labels"):
            pseudo = PseudoBoxes([select_pseudo_boxes(x, **self.selection) for x in found], detections=found)
            if self.ignore_score:
                pseudo.undecided = [undecided_boxes(x, y, self.ignore_score) for x, y in zip(found, pseudo.boxes)]
            return pseudo

    def follow(self, pseudo, truth):
        if self.module is not None:
            found = pseudo.detections
            scores, classes = (torch.cat([x.get(name) for x in found]) for name in ("scores", "pred_classes"))
            true = torch.cat([x.gt_classes for x in truth]) if truth else classes[:0]
            self.module.observe(scores, classes, true)

    def predict(self, model, images, features=None):
        """Detections (list[Instances]) of a model in eval mode on normalised images (``ImageList``), in their frame."""
        raise NotImplementedError

    def used(self, boxes):
        """For each image, whether L_M uses it. This depends on its pseudo-boxes."""
        return [len(x) > 0 or self.empty_images == "background" for x in boxes]

    def logged_names(self, model, class_names):
        """Names of the classes in logs; the index where a class has no name."""
        return [class_names[i] if i < len(class_names) else str(i) for i in range(self.num_classes(model))]

    def log(self, pseudo, model, class_names):
        thresholds = None if self.module is None else self.module.values
        names = self.logged_names(model, class_names)
        log_pseudo_boxes(pseudo.boxes, names, thresholds, pseudo.undecided)


class RCNNTask(BoxTask):
    """RPN and RoI heads, region by region: L_M with a quality weight for each region (MIC, Sec. 3.2-3.3, Eq. 6)."""

    def __init__(self, *, share_regions=False, keypoint_score=0.05, source="", **others):
        """
        Args:
            share_regions (bool): whether the regions of L_S are kept for other terms (``View.regions``).
            keypoint_score (float): least score of a pseudo-keypoint.
            source (str): the training set that tells which classes have keypoints; "" = all have them.
            others: arguments of :class:`BoxTask`.
        """
        super().__init__(**others)
        self.share_regions = share_regions
        self.keypoint_score, self.source = keypoint_score, source

    @classmethod
    def from_config(cls, cfg, **others):
        score, source = cfg.MODEL.MIC.PSEUDO_KEYPOINTS.SCORE_THRESHOLD, next(iter(cfg.DATASETS.TRAIN), "")
        return super().from_config(cfg, keypoint_score=score, source=source, **others)

    def check(self, model):
        head = getattr(model.roi_heads, "keypoint_head", None)
        if self.weights.keypoint and not isinstance(head, BaseKeypointRCNNHead):
            raise TypeError(
                f"MODEL.MIC.CONSISTENCY.KEYPOINT_WEIGHT is {self.weights.keypoint}, but the student's keypoint head is "
                f"{type(head).__name__}: use MODEL.KEYPOINT_ON True with a head of Keypoint R-CNN, or the weight 0."
            )
        head = getattr(model.roi_heads, "mask_head", None)
        if self.weights.mask and not isinstance(head, BaseMaskRCNNHead):
            raise TypeError(
                f"MODEL.MIC.CONSISTENCY.MASK_WEIGHT is {self.weights.mask}, but the student's mask head is "
                f"{type(head).__name__}: use MODEL.MASK_ON True with a head of Mask R-CNN, or the weight 0."
            )

    @classmethod
    def applies_to(cls, model):
        heads = getattr(model, "roi_heads", None)
        known = isinstance(heads, (StandardROIHeads, Res5ROIHeads)) and not isinstance(heads, CascadeROIHeads)
        return known and not getattr(heads.box_predictor, "use_sigmoid_ce", False)

    def num_classes(self, model):
        return model.roi_heads.num_classes

    def supervised(self, student, view, truth):
        proposals, losses = student.proposal_generator(view.images, view.features, truth)
        if self.share_regions:
            roi_losses, view.regions = supervised_roi_losses(student.roi_heads, view.features, proposals, truth)
        else:
            _, roi_losses = student.roi_heads(view.images, view.features, proposals, truth)
        get_event_storage().put_scalar("num_boxes", sum(map(len, truth)) / len(truth))
        return {**losses, **roi_losses}

    def pseudo_labels(self, model, view):
        if self.weights.targets == "hard":
            pseudo, teacher = super().pseudo_labels(model, view), RegionTeacher(model, view)
            pseudo.background_prob = teacher.background_prob
        else:
            rpn_outputs = rpn_predictions(model.proposal_generator, view.features)
            pseudo = super().pseudo_labels(model, view, rpn_outputs=rpn_outputs)
            pseudo.soft_teacher = teacher = RegionTeacher(model, view, rpn_outputs)
        if self.weights.keypoint:
            self.add_keypoints(pseudo.boxes, teacher)
        return pseudo

    def add_keypoints(self, boxes, teacher):
        """Give the pseudo-boxes (``Instances``) of N images the keypoints of a :class:`RegionTeacher`, with weights."""
        classes = keypoint_classes(self.source) if self.source else None
        found = teacher.keypoints([x.gt_boxes.tensor for x in boxes])
        for x, rows in zip(boxes, found):
            quality = self.weights.quality != "none"
            x.keypoints = weighted_keypoints(rows, x.gt_classes, self.keypoint_score, classes, quality)

    def log(self, pseudo, model, class_names):
        super().log(pseudo, model, class_names)
        if self.weights.keypoint and pseudo.boxes:
            weights = torch.cat([x.keypoints[:, :, 2].flatten() for x in pseudo.boxes])
            number, total = torch.stack([(weights > 0).sum(), weights.sum()]).tolist()
            storage = get_event_storage()
            storage.put_scalar("pseudo/num_keypoints", number / len(pseudo.boxes))
            if number:
                storage.put_scalar("pseudo/mean_keypoint_weight", total / number)

    def consistency(self, student, view, pseudo, truth):
        undecided, parts = pseudo.undecided, (bool(self.weights.mask), bool(self.weights.keypoint))
        if undecided is not None:
            undecided = undecided + [x.gt_boxes.tensor[:0] for x in truth]
        views = MaskedViews(
            view.images, view.features, pseudo_targets(pseudo.boxes, *parts) + true_targets(truth, *parts),
            self.used(pseudo.boxes) + [True] * len(truth), pseudo.background_prob,
            [False] * len(pseudo.boxes) + [True] * len(truth), pseudo.soft_teacher, undecided,
        )  # fmt: skip
        return masked_consistency_losses(student, views, self.weights)

    def predict(self, model, images, features=None, rpn_outputs=None):
        features = model.backbone(images.tensor) if features is None else features
        if rpn_outputs is None:
            proposals, _ = model.proposal_generator(images, features, None)
        else:
            proposals = model.proposal_generator.predict_proposals(*rpn_outputs, images.image_sizes)
        roi_heads = model.roi_heads
        if getattr(roi_heads, "keypoint_on", False):  # few of the boxes need their keypoints
            roi_heads = copy.copy(roi_heads)  # it has the same parts
            roi_heads.keypoint_on = False
        return roi_heads(images, features, proposals, None)[0]


def log_pseudo_boxes(pseudo, class_names, thresholds=None, undecided=None):
    """Log the number of a step's pseudo-boxes per target image, in total and for each class, and their mean score.

    It also logs the ``thresholds`` (K,) of the classes and the number of ``undecided`` boxes per image, if given.
    """
    storage = get_event_storage()
    counts = [len(x) for x in pseudo]
    storage.put_scalar("pseudo/num_boxes", sum(counts) / len(counts))
    storage.put_scalar("pseudo/empty_images", counts.count(0) / len(counts))
    classes = torch.cat([x.gt_classes for x in pseudo])
    per_class = (classes == torch.arange(len(class_names), device=classes.device)[:, None]).sum(dim=1)
    mean_score = torch.cat([x.scores for x in pseudo]).mean()  # NaN where there is none
    thresholds = mean_score.new_empty(0) if thresholds is None else thresholds
    mean_score, *numbers = torch.cat([mean_score[None], per_class, thresholds]).tolist()  # one transfer to the host
    per_class, thresholds = numbers[: len(class_names)], numbers[len(class_names) :]
    if undecided is not None:
        storage.put_scalar("pseudo/num_undecided", sum(map(len, undecided)) / len(counts))
    if sum(counts):
        storage.put_scalar("pseudo/mean_score", mean_score)
    for name, count in zip(class_names, per_class):
        storage.put_scalar(f"pseudo/num_boxes_{name}", count / len(counts), smoothing_hint=False)
    for name, threshold in zip(class_names, thresholds):
        storage.put_scalar(f"pseudo/threshold_{name}", threshold, smoothing_hint=False)
