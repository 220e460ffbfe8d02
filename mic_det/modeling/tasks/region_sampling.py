"""The regions of masked views that L_M compares: what is known of the images, and how regions are drawn.

Hard and soft targets share them. Detectron2's own matching and sampling draw the regions, by the boxes of the labels.
"""

import copy
from dataclasses import dataclass
from typing import Callable, Optional

import torch
import torch.nn.functional as F
from detectron2.layers import cat
from detectron2.structures import Boxes, Instances, pairwise_iou

from .region_teacher import RegionTeacher


@dataclass
class MaskedViews:
    """Masked images of one step, and what the student is to see in them.

    ``images`` (ImageList) and ``features`` (dict of (N, C, H, W)) are the student's; ``targets`` are N
    ``Instances`` with ``gt_boxes``, ``gt_classes`` and ``gt_scores`` (the teacher's quality of a region that is
    matched to a box). ``used[i]`` says whether image i takes part in the loss, and ``true_labels[i]`` whether its
    labels are true ones, whose regions all have q = 1 (None: pseudo-labels everywhere). ``background_prob`` takes
    box tensors (R_i, 4) of the images with pseudo-labels, in the images' frame, and returns as many tensors (R_i,):
    the teacher's probability that a region is background. ``soft_teacher`` has seen these images too: where it is
    there, its outputs are the targets of their regions, and pseudo-boxes only say which regions are drawn.
    ``undecided`` are N box tensors (M_i, 4), whose places are not drawn as background.
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
        """For each image, whether its labels are true ones."""
        return self.true_labels or [False] * len(self.used)

    def of_pseudo_labelled(self, values):
        """Those of N values whose images have pseudo-labels: what the teacher can be asked about."""
        return [x for x, true in zip(values, self.has_true_labels()) if not true]

    def asked(self, boxes):
        """Of N images' regions those that the teacher is asked about: none where an image is not used."""
        return [b if used else b[:0] for b, used in zip(boxes, self.used)]


@dataclass
class SampledAnchors:
    """S anchors of each of N images: ``boxes`` and ``matched`` (N lists of (S, 4)), ``labels``, ``logits`` (N, S).

    Labels: 1 = object, 0 = background, -1 = not sampled, of which all else is undefined. ``deltas`` are (N, S, 4).
    ``rows`` (N, S) are their places among all anchors.
    """

    boxes: list[torch.Tensor]
    matched: list[torch.Tensor]
    labels: torch.Tensor
    logits: torch.Tensor
    deltas: torch.Tensor
    rows: Optional[torch.Tensor] = None


def sample_anchors(rpn, anchors, logits, deltas, views):
    """The :class:`SampledAnchors` of an RPN's predictions; none of images that are not used."""
    sampler = rpn
    if views.undecided is not None:
        at = Boxes.cat(anchors)
        masks = iter([not_background(rpn.anchor_matcher, boxes, at) for boxes in views.undecided])
        sampler = copy.copy(rpn)  # with the same parameters, and a step of its own between matching and sampling
        sampler._subsample_labels = lambda labels: rpn._subsample_labels(_ignored(labels, next(masks)))
    labels, matched = sampler.label_and_sample_anchors(anchors, views.targets)
    labels = torch.stack([x if used else torch.full_like(x, -1) for x, used in zip(labels, views.used)])
    return chosen_anchors(
        Boxes.cat(anchors).tensor, matched, labels, cat(logits, dim=1), cat(deltas, dim=1), rpn.batch_size_per_image
    )


def sample_proposals(roi_heads, proposals, views):
    """Detectron2's sampled proposals (N ``Instances``) with their labels, none of them at the place of an undecided
    box as background."""
    sampler = roi_heads
    if views.undecided is not None:
        masks = iter(
            [
                not_background(roi_heads.proposal_matcher, boxes, x.proposal_boxes)
                for boxes, x in zip(views.undecided, proposals)
            ]
        )

        def sample(matches, labels, classes):
            if not len(classes):  # Detectron2 takes all of an image without boxes as background
                classes = classes.new_full((1,), roi_heads.num_classes)
            return roi_heads._sample_proposals(matches, _ignored(labels, next(masks)), classes)

        sampler = copy.copy(roi_heads)
        sampler._sample_proposals = sample
    return sampler.label_and_sample_proposals(proposals, views.targets)


def not_background(matcher, boxes, regions):
    """Which of R regions (``Boxes``) a matcher of Detectron2 would not take as background if boxes (M, 4) were labels.

    It is the rule by which true boxes keep regions from being background: their least IoU, and where the matcher has it
    so, the best region of each box, if they overlap at all. Unlike the matcher itself, it does not make the host wait.
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
    """A matcher's labels, of which background becomes -1 where a mask is set.

    The mask may be shorter: behind proposals there are the boxes of the labels themselves.
    """
    return labels.masked_fill(F.pad(mask, (0, len(labels) - len(mask))) & (labels == 0), -1)


def chosen_anchors(anchors, matched, labels, logits, deltas, num_sampled):
    """Those of all A anchors that are sampled, in their order.

    As many anchors an image are looked at as Detectron2 samples at most, with the label -1 where it sampled fewer,
    so that the host need not know how many there are.
    """
    chosen = (labels >= 0).float().topk(min(num_sampled, labels.shape[1]), dim=1).indices.sort(dim=1).values
    return SampledAnchors(
        [anchors[rows] for rows in chosen], [x[rows] for x, rows in zip(matched, chosen)],
        labels.gather(1, chosen), logits.gather(1, chosen).float(),
        deltas.gather(1, chosen[:, :, None].expand(-1, -1, deltas.shape[2])), chosen,
    )  # fmt: skip


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
