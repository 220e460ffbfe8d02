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
        sampled = labels >= 0
        all_logits = cat(logits, dim=1)
        with torch.no_grad():
            q = _objectness_quality(Boxes.cat(anchors).tensor, labels, all_logits, matched_boxes, views, weights)
        loss = F.binary_cross_entropy_with_logits(
            all_logits[sampled], labels[sampled].to(all_logits.dtype), weight=q, reduction="sum"
        )
        losses["loss_rpn_cls"] = loss / normalizer * rpn.loss_weight.get("loss_rpn_cls", 1.0) * weights.rpn_cls
    if weights.rpn_loc:
        loss = _dense_box_regression_loss(
            anchors, rpn.box2box_transform, deltas, matched_boxes, labels == 1, rpn.box_reg_loss_type,
            rpn.smooth_l1_beta,
        )  # fmt: skip
        losses["loss_rpn_loc"] = loss / normalizer * rpn.loss_weight.get("loss_rpn_loc", 1.0) * weights.rpn_loc
    return rpn.predict_proposals(anchors, logits, deltas, views.images.image_sizes), losses


def _objectness_quality(anchors, labels, logits, matched_boxes, views, weights):
    """q of the sampled anchors (S,), in the order of ``labels[labels >= 0]``."""
    sampled = labels >= 0
    if weights.quality == "none":
        return torch.ones_like(logits[sampled])
    if weights.quality == "student":
        p = logits[sampled].sigmoid()
        return torch.maximum(p, 1 - p)
    quality = torch.ones_like(logits)
    background = views.background_prob([anchors[row == 0] for row in labels])
    for i, (row, target) in enumerate(zip(labels, views.targets)):
        quality[i, row == 0] = background[i].to(quality.dtype)
        if len(target):
            # Detectron2 tells an anchor's matched box but not its index: find the box again
            same = (matched_boxes[i][row == 1][:, None] == target.gt_boxes.tensor[None]).all(dim=2)
            quality[i, row == 1] = (same * target.gt_scores).amax(dim=1).to(quality.dtype)
    return quality[sampled]


def _roi_losses(roi_heads, proposals, views, weights):
    sampled = roi_heads.label_and_sample_proposals(proposals, views.targets)
    boxes = [x.proposal_boxes for x in sampled]
    regions = Regions(boxes, region_features(roi_heads, views.features, boxes))
    logits, deltas = roi_heads.box_predictor(regions.features)
    labels = cat([x.gt_classes for x in sampled])
    used = cat([torch.full_like(x.gt_classes, u, dtype=torch.bool) for x, u in zip(sampled, views.used)])
    predictor = roi_heads.box_predictor
    losses = {}
    if weights.roi_cls:
        with torch.no_grad():
            q = _class_quality(logits, sampled, views, weights, roi_heads.num_classes)
        loss = F.cross_entropy(logits[used], labels[used], reduction="none")
        loss = (loss * q[used]).sum() / max(len(labels), 1)
        losses["loss_cls"] = loss * predictor.loss_weight.get("loss_cls", 1.0) * weights.roi_cls
    if weights.roi_loc:
        truth = cat([(x.gt_boxes if x.has("gt_boxes") else x.proposal_boxes).tensor for x in sampled])
        loss = predictor.box_reg_loss(cat([b.tensor for b in boxes]), truth, deltas, labels)
        losses["loss_box_reg"] = loss * predictor.loss_weight.get("loss_box_reg", 1.0) * weights.roi_loc
    return losses, regions


def _class_quality(logits, sampled, views, weights, background_class):
    """q of the sampled proposals (R,), in the order of the logits' rows; of any value where an image is not used."""
    if weights.quality == "none":
        return torch.ones_like(logits[:, 0])
    if weights.quality == "student":
        return logits.softmax(dim=1).amax(dim=1)
    # the teacher is not asked about images that do not take part
    is_background = [(x.gt_classes == background_class) & used for x, used in zip(sampled, views.used)]
    background = views.background_prob([x.proposal_boxes.tensor[m] for x, m in zip(sampled, is_background)])
    quality = []
    for x, mask, p in zip(sampled, is_background, background):
        q = x.gt_scores.to(logits.dtype) if x.has("gt_scores") else torch.ones_like(logits[: len(x), 0])
        q = q.clone()
        q[mask] = p.to(q.dtype)
        quality.append(q)
    return cat(quality)


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
