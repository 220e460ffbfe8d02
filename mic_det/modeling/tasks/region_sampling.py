"""Sampling of the regions of masked views that L_M compares.

Hard and soft targets share the regions. Detectron2's own matching and sampling draw them, by the boxes of the labels.
"""

import copy
from dataclasses import dataclass
from typing import Callable, Optional

import torch
import torch.nn.functional as F
from detectron2.layers import cat
from detectron2.structures import Boxes, Instances, Keypoints, pairwise_iou

from .region_teacher import RegionTeacher


@dataclass
class MaskedViews:
    """Masked images of one step, and their labels.

    ``images`` (ImageList) and ``features`` (dict of (N, C, H, W)) are the student's. ``targets`` are N ``Instances``
    with ``gt_boxes``, ``gt_classes`` and ``gt_scores`` (the quality of regions that are matched to a box); with masks
    also ``gt_mask_probs`` (in the boxes) or ``gt_masks``; with keypoints also ``gt_keypoints``, whose visibility is the
    weight of a keypoint. ``used[i]`` is True where the loss uses image i.
    ``true_labels[i]`` is True where its labels are true: all its regions have q = 1 (None: all images have pseudo-
    labels). ``background_prob`` takes box tensors (R_i, 4) of the images with pseudo-labels, in the images' frame. It
    returns a tensor (R_i,) for each: the teacher's probability that a region is background. ``soft_teacher`` has seen
    these images, too. If it is given, its outputs are the targets of their regions, and pseudo-boxes only decide
    which regions are drawn. ``undecided`` are N box tensors (M_i, 4), whose places are not drawn as background.
    """

    images: object
    features: dict
    targets: list[Instances]
    used: list[bool]
    background_prob: Optional[Callable] = None
    true_labels: Optional[list[bool]] = None
    soft_teacher: Optional[RegionTeacher] = None
    undecided: Optional[list[torch.Tensor]] = None

    def has_true_labels(self):
        """For each image, whether its labels are true labels."""
        return self.true_labels or [False] * len(self.used)

    def of_pseudo_labelled(self, values):
        """Those of N values whose images have pseudo-labels. The teacher has seen these images."""
        return [x for x, true in zip(values, self.has_true_labels()) if not true]

    def asked(self, boxes):
        """The regions of N images for which the teacher's outputs are needed: none where an image is not used."""
        return [b if used else b[:0] for b, used in zip(boxes, self.used)]


@dataclass
class SampledAnchors:
    """S anchors of each of N images: ``boxes`` and ``matched`` (N lists of (S, 4)), ``labels``, ``logits`` (N, S).

    Labels: 1 = object, 0 = background, -1 = not sampled; then the other values are undefined. ``deltas`` are (N, S, 4).
    ``rows`` (N, S) are their indices among all anchors.
    """

    boxes: list[torch.Tensor]
    matched: list[torch.Tensor]
    labels: torch.Tensor
    logits: torch.Tensor
    deltas: torch.Tensor
    rows: Optional[torch.Tensor] = None


def sample_anchors(rpn, anchors, logits, deltas, views):
    """The :class:`SampledAnchors` of an RPN's predictions. Unused images have none."""
    sampler = rpn
    if views.undecided is not None:
        at = Boxes.cat(anchors)
        masks = iter([not_background(rpn.anchor_matcher, boxes, at) for boxes in views.undecided])
        sampler = copy.copy(rpn)  # it has the same parameters, and an additional step between matching and sampling
        sampler._subsample_labels = lambda labels: rpn._subsample_labels(_ignored(labels, next(masks)))
    labels, matched = sampler.label_and_sample_anchors(anchors, views.targets)
    labels = torch.stack([x if used else torch.full_like(x, -1) for x, used in zip(labels, views.used)])
    return chosen_anchors(
        Boxes.cat(anchors).tensor, matched, labels, cat(logits, dim=1), cat(deltas, dim=1), rpn.batch_size_per_image
    )


def sample_proposals(roi_heads, proposals, views):
    """Detectron2's sampled proposals (N ``Instances``) with their labels. Places of undecided boxes are not sampled as
    background."""
    sampler = roi_heads
    if views.undecided is not None:
        masks = iter(
            [
                not_background(roi_heads.proposal_matcher, boxes, x.proposal_boxes)
                for boxes, x in zip(views.undecided, proposals)
            ]
        )

        def sample(matches, labels, classes):
            if not len(classes):  # in Detectron2, an image without boxes is all background
                classes = classes.new_full((1,), roi_heads.num_classes)
            return roi_heads._sample_proposals(matches, _ignored(labels, next(masks)), classes)

        sampler = copy.copy(roi_heads)
        sampler._sample_proposals = sample
    return sampler.label_and_sample_proposals(proposals, views.targets)


def not_background(matcher, boxes, regions):
    """For R regions (``Boxes``), whether a matcher of Detectron2 would not label them background if boxes were labels.

    The boxes are (M, 4). The rule is the matcher's: the least IoU with a box and, if the matcher allows low-quality
    matches, the best region of each box if they overlap. Unlike the matcher, it does not make the host wait for the
    device.
    """
    if not len(boxes):
        return torch.zeros(len(regions), dtype=torch.bool, device=boxes.device)
    iou = pairwise_iou(Boxes(boxes), regions)
    best, found = iou.amax(dim=0), torch.zeros(len(regions), dtype=torch.bool, device=boxes.device)
    for label, low, high in zip(matcher.labels, matcher.thresholds, matcher.thresholds[1:]):
        if label != 0:
            found |= (best >= low) & (best < high)
    if matcher.allow_low_quality_matches:
        found |= ((iou == iou.amax(dim=1, keepdim=True)) & (iou > 0)).any(dim=0)
    return found


def _ignored(labels, mask):
    """A matcher's labels. Where the mask is True, background becomes -1.

    The mask may be shorter, because Detectron2 appends the boxes of the labels to the proposals.
    """
    return labels.masked_fill(F.pad(mask, (0, len(labels) - len(mask))) & (labels == 0), -1)


def chosen_anchors(anchors, matched, labels, logits, deltas, num_sampled):
    """The sampled ones of all A anchors, in their order.

    Each image has the number of anchors that Detectron2 samples at most. Where it sampled fewer, the others have the
    label -1. So the host need not know their number.
    """
    chosen = (labels >= 0).float().topk(min(num_sampled, labels.shape[1]), dim=1).indices.sort(dim=1).values
    return SampledAnchors(
        [anchors[rows] for rows in chosen], [x[rows] for x, rows in zip(matched, chosen)],
        labels.gather(1, chosen), logits.gather(1, chosen).float(),
        deltas.gather(1, chosen[:, :, None].expand(-1, -1, deltas.shape[2])), chosen,
    )  # fmt: skip


def pseudo_targets(pseudo, masks=False, keypoints=False):
    """Pseudo-boxes with their scores as ``gt_scores``, because Detectron2's sampling keeps names with ``gt_``.

    Args:
        pseudo (list[Instances]): pseudo-boxes.
        masks, keypoints (bool): whether their masks (``mask_probs``) and weighted keypoints (``keypoints``) are kept.
    """
    targets = [_labelled(x, x.scores, masks) for x in pseudo]
    for x, kept in zip(pseudo, targets):
        if keypoints and len(x):
            kept.gt_keypoints = Keypoints(x.keypoints)
    return targets


def true_targets(truth, masks=False, keypoints=False):
    """True boxes, in the same form. All true keypoints have the weight 1, those that are covered, too."""
    targets = [_labelled(x, torch.ones(len(x), device=x.gt_boxes.device), masks) for x in truth]
    for x, kept in zip(truth, targets):
        if keypoints and len(x):
            rows = x.gt_keypoints.tensor
            kept.gt_keypoints = Keypoints(torch.cat([rows[:, :, :2], (rows[:, :, 2:] > 0).to(rows.dtype)], dim=2))
    return targets


def _labelled(instances, scores, masks):
    kept = Instances(instances.image_size)
    kept.gt_boxes, kept.gt_classes, kept.gt_scores = instances.gt_boxes, instances.gt_classes, scores
    for name, own in (("gt_masks", "gt_masks"), ("mask_probs", "gt_mask_probs")):
        if masks and instances.has(name) and len(instances):
            kept.set(own, instances.get(name))
    return kept
