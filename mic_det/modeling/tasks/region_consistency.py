"""Masked consistency losses of an R-CNN student (MIC, Sec. 3.2-3.3, Eq. 6).

The student's RPN and box head are trained on masked views against labels that it did not make
itself. Detectron2's own sampling, matching and predictors are used; what is added is one weight a
region, and leaving images out.
"""

from dataclasses import dataclass, field
from typing import Callable, Optional

import torch
import torch.nn.functional as F
from detectron2.layers import cat, ciou_loss, diou_loss
from detectron2.structures import Boxes, Instances
from fvcore.nn import giou_loss, smooth_l1_loss

from ..regions import region_features, rpn_predictions


@dataclass
class MaskedViews:
    """Masked images of one step, and what the student is to see in them.

    ``images`` (ImageList) and ``features`` (dict of (N, C, H, W)) are the student's; ``targets`` are N
    ``Instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_scores`` (the teacher's quality of a region that is
    matched to a box). ``used[i]`` says whether image i takes part in the loss, and ``true_labels[i]`` whether its
    labels are true ones, whose regions all have q = 1 (None: pseudo-labels everywhere). ``background_prob`` takes
    box tensors (R_i, 4) of the images with pseudo-labels, in the images' frame, and returns as many tensors (R_i,):
    the teacher's probability that a region is background.
    """

    images: object
    features: dict
    targets: list[Instances]
    used: list[bool]
    background_prob: Optional[Callable] = None
    true_labels: Optional[list[bool]] = None

    def has_true_labels(self):
        """For each image, whether its labels are true ones."""
        return self.true_labels or [False] * len(self.used)


@dataclass
class ConsistencyWeights:
    """Weights of the terms of L_M (0 leaves a term out) and the mode of the quality weight q."""

    rpn_cls: float = 1.0
    roi_cls: float = 1.0
    rpn_loc: float = 0.0
    roi_loc: float = 0.0
    quality: str = field(default="teacher")


@dataclass
class SampledAnchors:
    """S anchors of each of N images: ``boxes`` and ``matched`` (N lists of (S, 4)), ``labels``, ``logits`` (N, S).

    Labels: 1 = object, 0 = background, -1 = not sampled, of which all else is undefined. ``deltas`` are (N, S, 4).
    """

    boxes: list[torch.Tensor]
    matched: list[torch.Tensor]
    labels: torch.Tensor
    logits: torch.Tensor
    deltas: torch.Tensor


def masked_consistency_losses(student, views, weights):
    """L_M of one step, before lambda_M (MIC, Eq. 6).

    Args:
        student (nn.Module): an R-CNN in training mode.
        views (MaskedViews): the student's masked images and their labels.
        weights (ConsistencyWeights): which terms, and how regions are weighted.

    Returns:
        dict[str, Tensor]: scalars ``loss_rpn_cls``, ``loss_cls`` and, where selected, ``loss_rpn_loc``,
        ``loss_box_reg``. Images that are not used add 0 to each sum but count in the mean, so that a step's loss is
        the mean of its images' losses on any number of devices.
    """
    proposals, losses = _rpn_losses(student.proposal_generator, views, weights)
    if weights.roi_cls or weights.roi_loc:
        losses.update(_roi_losses(student.roi_heads, proposals, views, weights))
    return losses


def _rpn_losses(rpn, views, weights):
    anchors, logits, deltas = rpn_predictions(rpn, views.features)
    losses = {}
    if weights.rpn_cls or weights.rpn_loc:
        labels, matched = rpn.label_and_sample_anchors(anchors, views.targets)
        labels = torch.stack([x if used else torch.full_like(x, -1) for x, used in zip(labels, views.used)])
        sampled = _sampled_anchors(
            Boxes.cat(anchors).tensor, matched, labels, cat(logits, dim=1), cat(deltas, dim=1), rpn.batch_size_per_image
        )
        q = _objectness_quality(sampled, views, weights.quality)
        normalizer = rpn.batch_size_per_image * len(labels)
    if weights.rpn_cls:
        loss = _objectness_loss(sampled, q)
        losses["loss_rpn_cls"] = loss / normalizer * rpn.loss_weight.get("loss_rpn_cls", 1.0) * weights.rpn_cls
    if weights.rpn_loc:
        loss = _box_loss(
            rpn, cat(sampled.boxes), sampled.deltas.flatten(0, 1), cat(sampled.matched),
            sampled.labels.flatten() == 1, q.detach().flatten(),
        )  # fmt: skip
        losses["loss_rpn_loc"] = loss / normalizer * rpn.loss_weight.get("loss_rpn_loc", 1.0) * weights.rpn_loc
    return rpn.predict_proposals(anchors, logits, deltas, views.images.image_sizes), losses


def _sampled_anchors(anchors, matched, labels, logits, deltas, num_sampled):
    """Those of all A anchors that are sampled, in their order.

    As many anchors an image are looked at as Detectron2 samples at most, with the label -1 where it sampled fewer,
    so that the host need not know how many there are.
    """
    chosen = (labels >= 0).float().topk(min(num_sampled, labels.shape[1]), dim=1).indices.sort(dim=1).values
    return SampledAnchors(
        [anchors[rows] for rows in chosen], [x[rows] for x, rows in zip(matched, chosen)],
        labels.gather(1, chosen), logits.gather(1, chosen).float(),
        deltas.gather(1, chosen[:, :, None].expand(-1, -1, deltas.shape[2])),
    )  # fmt: skip


def _objectness_loss(sampled, q):
    """Sum of q times the binary cross entropy of sampled anchors."""
    loss = F.binary_cross_entropy_with_logits(sampled.logits, (sampled.labels == 1).float(), reduction="none")
    return (loss * q).sum()


def _objectness_quality(sampled, views, quality):
    """q (N, S) of sampled anchors; 0 where one is not sampled."""
    if quality == "none":
        q = torch.ones_like(sampled.logits)
    elif quality == "published":  # of both labels, and with a gradient: what the published code does
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
            # Detectron2 tells an anchor's matched box but not its index: find the box again
            same = (boxes[:, None] == target.gt_boxes.tensor[None]).all(dim=2)
            q = torch.where(label == 1, (same * target.gt_scores).amax(dim=1).float(), q)
        rows.append(q)
    return torch.stack(rows)


def _background_quality(views, boxes):
    """q of N images' regions (R_i, 4) as background.

    The teacher is asked about images that are used and have pseudo-labels alone; the others have 0 (not used) or 1.
    """
    pseudo = [i for i, true in enumerate(views.has_true_labels()) if not true]
    rows = [b.new_ones(len(b)) for b in boxes]
    asked = [boxes[i] if views.used[i] else boxes[i][:0] for i in pseudo]
    for i, p in zip(pseudo, views.background_prob(asked) if pseudo else ()):
        rows[i] = p if views.used[i] else torch.zeros_like(rows[i])
    return rows


def _roi_losses(roi_heads, proposals, views, weights):
    sampled = roi_heads.label_and_sample_proposals(proposals, views.targets)
    boxes = [x.proposal_boxes for x in sampled]
    predictor = roi_heads.box_predictor
    logits, deltas = predictor(region_features(roi_heads, views.features, boxes))
    labels = cat([x.gt_classes for x in sampled])
    q = _class_quality(logits, sampled, views, weights.quality, roi_heads.num_classes)
    losses = {}
    if weights.roi_cls:
        loss = (F.cross_entropy(logits, labels, reduction="none") * q).sum() / max(len(labels), 1)
        losses["loss_cls"] = loss * predictor.loss_weight.get("loss_cls", 1.0) * weights.roi_cls
    if weights.roi_loc:
        matched = cat([(x.gt_boxes if x.has("gt_boxes") else x.proposal_boxes).tensor for x in sampled])
        loss = _box_loss(
            predictor, cat([b.tensor for b in boxes]), _deltas_of_labels(deltas, labels, roi_heads.num_classes),
            matched, labels < roi_heads.num_classes, q,
        )  # fmt: skip
        loss = loss / max(len(labels), 1)
        losses["loss_box_reg"] = loss * predictor.loss_weight.get("loss_box_reg", 1.0) * weights.roi_loc
    return losses


@torch.no_grad()
def _class_quality(logits, sampled, views, quality, background_class):
    """q of the sampled proposals (R,), in the order of the logits' rows; 0 where an image is not used."""

    def of_images(values):
        return cat([torch.full_like(logits[: len(x), 0], v) for x, v in zip(sampled, values)])

    if quality == "none":
        q = torch.ones_like(logits[:, 0])
    elif quality in ("student", "published"):
        q = logits.softmax(dim=1).amax(dim=1)
    else:
        # of all of them, as telling which are background would have the host wait for their number
        background = _background_quality(views, [x.proposal_boxes.tensor for x in sampled])
        rows = []
        for x, p in zip(sampled, background):
            q = x.gt_scores.to(logits.dtype) if x.has("gt_scores") else torch.ones_like(logits[: len(x), 0])
            rows.append(torch.where(x.gt_classes == background_class, p.to(q.dtype), q))
        q = cat(rows)
    return torch.where(of_images(views.has_true_labels()) > 0, torch.ones_like(q), q) * of_images(views.used)


def _deltas_of_labels(deltas, labels, num_classes):
    """Box deltas (R, 4) for each region's own class, of (R, 4) or (R, K * 4); of any class for background."""
    if deltas.shape[1] == 4:
        return deltas
    rows = labels.clamp(max=num_classes - 1)[:, None, None].expand(-1, 1, 4)
    return deltas.view(-1, num_classes, 4).gather(1, rows).squeeze(1)


def _box_loss(settings, boxes, deltas, matched, foreground, q):
    """Sum of q times Detectron2's box regression loss of foreground regions.

    Args:
        settings (RPN or FastRCNNOutputLayers): whose kind of loss and transform are used.
        boxes, deltas, matched (Tensor): (R, 4), regions, predicted deltas and the boxes that regions are matched to.
        foreground, q (Tensor): (R,).
    """
    matched = torch.where(foreground[:, None], matched, boxes)  # finite everywhere, and no row needs to be picked out
    transform, kind = settings.box2box_transform, settings.box_reg_loss_type
    if kind == "smooth_l1":
        loss = smooth_l1_loss(
            deltas, transform.get_deltas(boxes, matched), beta=settings.smooth_l1_beta, reduction="none"
        ).sum(dim=1)
    else:
        iou_loss = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}[kind]
        loss = iou_loss(transform.apply_deltas(deltas, boxes), matched, reduction="none")
    return (loss * q * foreground).sum()


def pseudo_targets(pseudo):
    """Pseudo-boxes with their scores under a name that Detectron2's sampling hands on (``gt_``)."""
    return [_labelled(x, x.scores) for x in pseudo]


def true_targets(truth):
    """True boxes, in the same form."""
    return [_labelled(x, torch.ones(len(x), device=x.gt_boxes.device)) for x in truth]


def _labelled(instances, scores):
    kept = Instances(instances.image_size)
    kept.gt_boxes, kept.gt_classes, kept.gt_scores = instances.gt_boxes, instances.gt_classes, scores
    return kept
