"""Masked consistency losses of an R-CNN student (MIC, Sec. 3.2-3.3, Eq. 6).

The student's RPN and box head are trained on masked views with labels of the teacher. Sampling, matching and predictors
are Detectron2's own. This module adds one weight per region, leaves images out, and can use the teacher's whole outputs
as targets (:mod:`.soft_targets`).
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from detectron2.layers import cat, ciou_loss, diou_loss
from fvcore.nn import giou_loss, smooth_l1_loss

from ..regions import region_features, rpn_predictions
from .keypoint_consistency import keypoint_loss
from .mask_consistency import mask_loss
from .region_sampling import sample_anchors, sample_proposals
from .soft_targets import teacher_anchors, teacher_classes


@dataclass
class ConsistencyWeights:
    """Weights of the terms of L_M (0 leaves a term out), the mode of the quality weight q, and the kind of targets.

    ``targets`` are "hard", or "soft", which have q = 1.
    """

    rpn_cls: float = 1.0
    roi_cls: float = 1.0
    rpn_loc: float = 0.0
    roi_loc: float = 0.0
    quality: str = field(default="teacher")
    targets: str = field(default="hard")
    mask: float = 0.0
    keypoint: float = 0.0


def masked_consistency_losses(student, views, weights):
    """L_M of one step, without lambda_M (MIC, Eq. 6).

    Args:
        student (nn.Module): an R-CNN in training mode.
        views (MaskedViews): the student's masked images and their labels.
        weights (ConsistencyWeights): weights of the terms and of regions.

    Returns:
        dict[str, Tensor]: scalars ``loss_rpn_cls``, ``loss_cls`` and, where selected, ``loss_rpn_loc``,
        ``loss_box_reg``, ``loss_mask``, ``loss_keypoint``. Unused images add 0 to each sum but count in the mean. So on
        any number of devices, a step's loss is the mean of its images' losses. Only ``loss_mask`` is a mean over
        foreground regions, and ``loss_keypoint`` one over their keypoints, as in Detectron2.
    """
    proposals, losses = _rpn_losses(student.proposal_generator, views, weights)
    if weights.roi_cls or weights.roi_loc or weights.mask or weights.keypoint:
        losses.update(_roi_losses(student.roi_heads, proposals, views, weights))
    return losses


def _rpn_losses(rpn, views, weights):
    anchors, logits, deltas = rpn_predictions(rpn, views.features)
    losses = {}
    if weights.rpn_cls or weights.rpn_loc:
        sampled = sample_anchors(rpn, anchors, logits, deltas, views)
        objects, q = (sampled.labels == 1).float(), _objectness_quality(sampled, views, weights.quality)
        normalizer = rpn.batch_size_per_image * len(objects)
        if views.soft_teacher is not None:
            shapes = [views.features[name].shape[-2:] for name in rpn.in_features]
            soft, teacher_logits, teacher_deltas = teacher_anchors(sampled, views, shapes)
            objects = torch.where(soft, teacher_logits.sigmoid(), objects)
            q = q * (teacher_logits > -torch.inf)
    if weights.rpn_cls:
        loss = _objectness_loss(sampled, objects, q)
        losses["loss_rpn_cls"] = loss / normalizer * rpn.loss_weight.get("loss_rpn_cls", 1.0) * weights.rpn_cls
    if weights.rpn_loc:
        boxes = cat(sampled.boxes)
        targets = _matched_targets(rpn, boxes, cat(sampled.matched), sampled.labels.flatten() == 1)
        if views.soft_teacher is not None:
            agreed = _delta_targets(rpn, boxes, teacher_deltas.flatten(0, 1)[:, None])
            targets = torch.where(soft.expand_as(q).flatten()[:, None, None], agreed, targets)
        loss = _box_loss(rpn, boxes, sampled.deltas.flatten(0, 1)[:, None], targets, (objects * q.detach()).view(-1, 1))
        losses["loss_rpn_loc"] = loss / normalizer * rpn.loss_weight.get("loss_rpn_loc", 1.0) * weights.rpn_loc
    return rpn.predict_proposals(anchors, logits, deltas, views.images.image_sizes), losses


def _objectness_loss(sampled, objects, q):
    """Sum of q times the binary cross entropy of sampled anchors, whose probabilities of an object are (N, S)."""
    loss = F.binary_cross_entropy_with_logits(sampled.logits, objects, reduction="none")
    return (loss * q).sum()


def _objectness_quality(sampled, views, quality):
    """q (N, S) of sampled anchors; 0 where an anchor is not sampled."""
    if quality == "none" or views.soft_teacher is not None:
        q = torch.ones_like(sampled.logits)
    elif quality == "published":  # for both labels, with a gradient: as the published code
        q = sampled.logits.sigmoid()
    elif quality == "student":
        p = sampled.logits.detach().sigmoid()
        q = torch.maximum(p, 1 - p)
    else:
        q = _teacher_objectness_quality(sampled, views)
    true = torch.tensor(views.has_true_labels(), device=q.device)[:, None]
    return torch.where(true, torch.ones_like(q), q) * (sampled.labels >= 0)


@torch.no_grad()
def _teacher_objectness_quality(sampled, views):
    rows = []
    background = _background_quality(views, sampled.boxes)
    for label, p, boxes, target in zip(sampled.labels, background, sampled.matched, views.targets):
        q = p.float()
        if len(target):
            # Detectron2 returns an anchor's matched box without its index: find the box again
            same = (boxes[:, None] == target.gt_boxes.tensor[None]).all(dim=2)
            q = torch.where(label == 1, (same * target.gt_scores).amax(dim=1).float(), q)
        rows.append(q)
    return torch.stack(rows)


def _background_quality(views, boxes):
    """q of N images' regions (R_i, 4) as background.

    The teacher gives q only for used images with pseudo-labels. Other images have 0 (not used) or 1 (true labels).
    """
    pseudo = views.of_pseudo_labelled(range(len(boxes)))
    rows = [b.new_ones(len(b)) for b in boxes]
    asked = views.of_pseudo_labelled(views.asked(boxes))
    for i, p in zip(pseudo, views.background_prob(asked) if pseudo else ()):
        rows[i] = p if views.used[i] else torch.zeros_like(rows[i])
    return rows


def _roi_losses(roi_heads, proposals, views, weights):
    sampled = sample_proposals(roi_heads, proposals, views)
    boxes = [x.proposal_boxes for x in sampled]
    predictor, num_classes = roi_heads.box_predictor, roi_heads.num_classes
    logits, deltas = predictor(region_features(roi_heads, views.features, boxes))
    labels = cat([x.gt_classes for x in sampled])
    probs = (labels[:, None] == torch.arange(num_classes + 1, device=labels.device)).float()
    q = _class_quality(logits, sampled, views, weights.quality, num_classes)
    if views.soft_teacher is not None:
        soft, teacher_probs, teacher_deltas = teacher_classes([b.tensor for b in boxes], views)
        probs = torch.where(soft[:, None], teacher_probs, probs)
    losses = {}
    if weights.mask:
        loss = mask_loss(roi_heads, views.features, sampled, q, soft=views.soft_teacher is not None)
        losses["loss_mask"] = loss * roi_heads.mask_head.loss_weight * weights.mask
    if weights.keypoint:
        loss = keypoint_loss(roi_heads, views.features, sampled)
        losses["loss_keypoint"] = loss * roi_heads.keypoint_head.loss_weight * weights.keypoint
    if weights.roi_cls:
        loss = (F.cross_entropy(logits, probs, reduction="none") * q).sum() / max(len(labels), 1)
        losses["loss_cls"] = loss * predictor.loss_weight.get("loss_cls", 1.0) * weights.roi_cls
    if weights.roi_loc:
        matched = cat([(x.gt_boxes if x.has("gt_boxes") else x.proposal_boxes).tensor for x in sampled])
        boxes, deltas = cat([b.tensor for b in boxes]), deltas.unflatten(1, (-1, 4))
        targets = _matched_targets(predictor, boxes, matched, labels < num_classes)
        if views.soft_teacher is not None:
            targets = torch.where(soft[:, None, None], _delta_targets(predictor, boxes, teacher_deltas), targets)
        foreground = probs[:, :-1]
        if deltas.shape[1] == 1:  # one box for all classes
            foreground = foreground.sum(dim=1, keepdim=True)
        loss = _box_loss(predictor, boxes, deltas, targets, foreground * q[:, None]) / max(len(labels), 1)
        losses["loss_box_reg"] = loss * predictor.loss_weight.get("loss_box_reg", 1.0) * weights.roi_loc
    return losses


@torch.no_grad()
def _class_quality(logits, sampled, views, quality, background_class):
    """q of the sampled proposals (R,), in the order of the logits' rows; 0 where an image is not used."""

    def of_images(values):
        return cat([torch.full_like(logits[: len(x), 0], v) for x, v in zip(sampled, values)])

    if quality == "none" or views.soft_teacher is not None:
        q = torch.ones_like(logits[:, 0])
    elif quality in ("student", "published"):
        q = logits.softmax(dim=1).amax(dim=1)
    else:
        # for all proposals: to select those of background, the host would wait for their number
        background = _background_quality(views, [x.proposal_boxes.tensor for x in sampled])
        rows = []
        for x, p in zip(sampled, background):
            q = x.gt_scores.to(logits.dtype) if x.has("gt_scores") else torch.ones_like(logits[: len(x), 0])
            rows.append(torch.where(x.gt_classes == background_class, p.to(q.dtype), q))
        q = cat(rows)
    return torch.where(of_images(views.has_true_labels()) > 0, torch.ones_like(q), q) * of_images(views.used)


def _matched_targets(settings, boxes, matched, foreground):
    """Targets (R, 1, 4) of the box regression of regions (R, 4) that have matched boxes (R, 4)."""
    matched = torch.where(foreground[:, None], matched, boxes)  # all rows are finite, so none must be selected
    if settings.box_reg_loss_type == "smooth_l1":
        return settings.box2box_transform.get_deltas(boxes, matched)[:, None]
    return matched[:, None]


def _delta_targets(settings, boxes, deltas):
    """The same for target deltas (R, D, 4)."""
    return deltas if settings.box_reg_loss_type == "smooth_l1" else _moved(settings, boxes, deltas)


def _moved(settings, boxes, deltas):
    return settings.box2box_transform.apply_deltas(deltas.flatten(1), boxes).unflatten(1, (-1, 4))


def _box_loss(settings, boxes, deltas, targets, weight):
    """Sum of Detectron2's box regression losses, each times its weight.

    Args:
        settings (RPN or FastRCNNOutputLayers): has the kind of loss and the transform.
        boxes (Tensor): (R, 4), regions.
        deltas (Tensor): (R, D, 4), predicted, where D = 1 or the number of classes.
        targets (Tensor): (R, 1 or D, 4), deltas for smooth L1, else boxes.
        weight (Tensor): (R, D); 0 leaves out the box of a region and class.
    """
    kind = settings.box_reg_loss_type
    if kind == "smooth_l1":
        loss = smooth_l1_loss(deltas, targets.expand_as(deltas), beta=settings.smooth_l1_beta, reduction="none").sum(-1)
    else:
        iou_loss = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}[kind]
        loss = iou_loss(_moved(settings, boxes, deltas), targets.expand_as(deltas), reduction="none")
    return (loss * weight).sum()
