"""Masked consistency losses of an R-CNN student (MIC, Sec. 3.2-3.3, Eq. 6).

The student's RPN and box head are trained on masked views against labels that it did not make
itself. Detectron2's own sampling, matching and predictors are used; what is added is one weight a
region, and leaving images out.
"""

from dataclasses import dataclass, field
from typing import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import cat
from detectron2.modeling.box_regression import _dense_box_regression_loss
from detectron2.structures import Boxes, Instances

from .regions import Regions, region_features, rpn_predictions


@dataclass
class MaskedViews:
    """Masked images of one step, and what the student is to see in them.

    ``images`` (ImageList) and ``features`` (dict of (N, C, H, W)) are the student's; ``targets`` are N
    ``Instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_scores`` (the weight of a region that is
    matched to a box). ``used[i]`` says whether image i takes part in the loss. ``background_prob``
    takes N box tensors (R_i, 4) in the images' frame and returns N tensors (R_i,): the weight of a
    region that is labelled background.
    """

    images: object
    features: dict
    targets: list[Instances]
    used: list[bool]
    background_prob: Callable


@dataclass
class ConsistencyWeights:
    """Weights of the terms of L_M (0 leaves a term out) and the mode of the quality weight q."""

    rpn_cls: float = 1.0
    roi_cls: float = 1.0
    rpn_loc: float = 0.0
    roi_loc: float = 0.0
    quality: str = field(default="teacher")


def masked_consistency_losses(student, views, weights):
    """L_M of one step, before lambda_M (MIC, Eq. 6).

    Args:
        student (nn.Module): an R-CNN in training mode.
        views (MaskedViews): the student's masked images and their labels.
        weights (ConsistencyWeights): which terms, and how regions are weighted.

    Returns:
        (dict[str, Tensor], Regions or None): scalars ``loss_rpn_cls``, ``loss_cls`` and, where selected,
        ``loss_rpn_loc``, ``loss_box_reg``; and the regions that the RoI terms, if any, were computed on.
        Images that are not used add 0 to each sum but count in the mean, so that a step's loss is the
        mean of its images' losses on any number of devices.
    """
    proposals, losses = _rpn_losses(student.proposal_generator, views, weights)
    if not (weights.roi_cls or weights.roi_loc):
        return losses, None
    roi_losses, regions = _roi_losses(student.roi_heads, proposals, views, weights)
    return {**losses, **roi_losses}, regions


def _rpn_losses(rpn, views, weights):
    anchors, logits, deltas = rpn_predictions(rpn, views.features)
    losses = {}
    if weights.rpn_cls or weights.rpn_loc:
        labels, matched_boxes = rpn.label_and_sample_anchors(anchors, views.targets)
        labels = torch.stack([x if used else torch.full_like(x, -1) for x, used in zip(labels, views.used)])
        normalizer = rpn.batch_size_per_image * len(labels)
    if weights.rpn_cls:
        loss = _objectness_loss(
            Boxes.cat(anchors).tensor, labels, cat(logits, dim=1), matched_boxes, views, weights.quality,
            rpn.batch_size_per_image,
        )  # fmt: skip
        losses["loss_rpn_cls"] = loss / normalizer * rpn.loss_weight.get("loss_rpn_cls", 1.0) * weights.rpn_cls
    if weights.rpn_loc:
        loss = _dense_box_regression_loss(
            anchors, rpn.box2box_transform, deltas, matched_boxes, labels == 1, rpn.box_reg_loss_type,
            rpn.smooth_l1_beta,
        )  # fmt: skip
        losses["loss_rpn_loc"] = loss / normalizer * rpn.loss_weight.get("loss_rpn_loc", 1.0) * weights.rpn_loc
    return rpn.predict_proposals(anchors, logits, deltas, views.images.image_sizes), losses


def _objectness_loss(anchors, labels, logits, matched_boxes, views, quality, num_sampled):
    """Sum of q times the binary cross entropy of N images' sampled anchors; labels and logits are (N, A).

    As many anchors an image are looked at as Detectron2 samples at most, with weight 0 where it sampled fewer, so
    that the host need not know how many there are.
    """
    # of those sampled, in the order of the anchors
    chosen = (labels >= 0).float().topk(min(num_sampled, labels.shape[1]), dim=1).indices.sort(dim=1).values
    labels, logits = labels.gather(1, chosen), logits.gather(1, chosen)
    matched = [x[rows] for x, rows in zip(matched_boxes, chosen)]
    with torch.no_grad():
        q = _objectness_quality([anchors[rows] for rows in chosen], labels, logits, matched, views, quality)
        q = q * (labels >= 0)
    return F.binary_cross_entropy_with_logits(logits, (labels == 1).to(logits.dtype), weight=q, reduction="sum")


def _objectness_quality(anchors, labels, logits, matched_boxes, views, quality):
    """q (N, S) of N images' S anchors each; of any value where an anchor is not sampled."""
    if quality == "none":
        return torch.ones_like(logits)
    if quality == "student":
        p = logits.sigmoid()
        return torch.maximum(p, 1 - p)
    rows = []
    for label, p, boxes, target in zip(labels, _background_quality(views, anchors), matched_boxes, views.targets):
        q = p.to(logits.dtype)
        if len(target):
            # Detectron2 tells an anchor's matched box but not its index: find the box again
            same = (boxes[:, None] == target.gt_boxes.tensor[None]).all(dim=2)
            q = torch.where(label == 1, (same * target.gt_scores).amax(dim=1).to(logits.dtype), q)
        rows.append(q)
    return torch.stack(rows)


def _background_quality(views, boxes):
    """q of N images' regions (R_i, 4) as background; 0 where an image is not used, about which no teacher is asked."""
    found = views.background_prob([b if used else b[:0] for b, used in zip(boxes, views.used)])
    return [p if used else b.new_zeros(len(b)) for p, b, used in zip(found, boxes, views.used)]


def _roi_losses(roi_heads, proposals, views, weights):
    sampled = roi_heads.label_and_sample_proposals(proposals, views.targets)
    boxes = [x.proposal_boxes for x in sampled]
    regions = Regions(boxes, region_features(roi_heads, views.features, boxes))
    logits, deltas = roi_heads.box_predictor(regions.features)
    labels = cat([x.gt_classes for x in sampled])
    predictor = roi_heads.box_predictor
    losses = {}
    if weights.roi_cls:
        with torch.no_grad():
            q = _class_quality(logits, sampled, views, weights.quality, roi_heads.num_classes)
        loss = (F.cross_entropy(logits, labels, reduction="none") * q).sum() / max(len(labels), 1)
        losses["loss_cls"] = loss * predictor.loss_weight.get("loss_cls", 1.0) * weights.roi_cls
    if weights.roi_loc:
        truth = cat([(x.gt_boxes if x.has("gt_boxes") else x.proposal_boxes).tensor for x in sampled])
        loss = predictor.box_reg_loss(cat([b.tensor for b in boxes]), truth, deltas, labels)
        losses["loss_box_reg"] = loss * predictor.loss_weight.get("loss_box_reg", 1.0) * weights.roi_loc
    return losses, regions


def _class_quality(logits, sampled, views, quality, background_class):
    """q of the sampled proposals (R,), in the order of the logits' rows; 0 where an image is not used."""
    used = cat([torch.full_like(logits[: len(x), 0], u) for x, u in zip(sampled, views.used)])
    if quality == "none":
        return used
    if quality == "student":
        return logits.softmax(dim=1).amax(dim=1) * used
    # of all of them, as telling which are background would have the host wait for their number
    background = _background_quality(views, [x.proposal_boxes.tensor for x in sampled])
    rows = []
    for x, p in zip(sampled, background):
        q = x.gt_scores.to(logits.dtype) if x.has("gt_scores") else torch.ones_like(logits[: len(x), 0])
        rows.append(torch.where(x.gt_classes == background_class, p.to(q.dtype), q))
    return cat(rows) * used


def pseudo_targets(pseudo):
    """Pseudo-boxes with their scores under a name that Detectron2's sampling hands on (``gt_``)."""
    return [_labelled(x, x.scores) for x in pseudo]


def true_targets(truth):
    """True boxes, which are fully trusted."""
    return [_labelled(x, torch.ones(len(x), device=x.gt_boxes.device)) for x in truth]


def _labelled(instances, scores):
    kept = Instances(instances.image_size)
    kept.gt_boxes, kept.gt_classes, kept.gt_scores = instances.gt_boxes, instances.gt_classes, scores
    return kept


def background_weight(teacher_probs, num_target):
    """Weight of background regions: the teacher's on the first ``num_target`` images, 1 where the truth is known."""

    def background_prob(boxes):
        target = list(teacher_probs(boxes[:num_target])) if num_target else []
        return target + [b.new_ones(len(b)) for b in boxes[num_target:]]

    return background_prob
