"""Pseudo-labels from the teacher's predictions (MIC, Sec. 3.2 and 3.3)."""

import torch
from detectron2.structures import Boxes, Instances
from torchvision.ops import batched_nms


@torch.no_grad()
def select_pseudo_boxes(instances, score_threshold, nms_threshold=None, *, max_boxes=None, min_size=0.0):
    """Select the teacher's confident detections as the pseudo-boxes of one image.

    Args:
        instances (Instances): detections with ``pred_boxes`` (M boxes, XYXY pixels), ``scores`` (M)
            and ``pred_classes`` (M); those of Mask R-CNN also with ``pred_masks`` (M, 1, S, S), probabilities in each
            box.
        score_threshold (float or sequence): minimum score delta: one value, or one for each class.
        nms_threshold (float): IoU of a class-wise non-maximum suppression. None = no suppression.
        max_boxes (int): at most this number of boxes is kept, those with the highest scores. None = all.
        min_size (float): minimum width and height in pixels. A box without width or height is never kept: its IoU with
            every anchor is 0, so that all anchors would match it. Detections that are clipped at the image's border
            may be such boxes.

    Returns:
        Instances: ``gt_boxes``, ``gt_classes`` and ``scores``, sorted by descending score, in the coordinates of
        ``instances``; with masks also ``mask_probs`` (K, S, S).
    """
    boxes, scores, classes = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
    keep = _confident(instances, score_threshold) & _large(boxes, min_size)
    keep = keep.nonzero()[:, 0]  # the host waits for the device only here: it needs the number of boxes
    boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
    if nms_threshold is None:
        order = scores.argsort(descending=True, stable=True)
    else:
        order = batched_nms(boxes.float(), scores.float(), classes, nms_threshold)
    order = order[:max_boxes]
    pseudo = Instances(
        instances.image_size, gt_boxes=Boxes(boxes[order]), gt_classes=classes[order], scores=scores[order]
    )
    if instances.has("pred_masks") and instances.pred_masks.dim() == 4:  # not yet pasted into the image
        pseudo.mask_probs = instances.pred_masks[keep[order], 0]
    return pseudo


@torch.no_grad()
def weighted_keypoints(keypoints, classes, score_threshold, with_keypoints=None, quality=True):
    """The weights with which the keypoints of pseudo-boxes are labels.

    Args:
        keypoints (Tensor): (R, K, 3), rows (x, y, score of the teacher's heat map).
        classes (Tensor): (R,), of the boxes.
        score_threshold (float): least score of a pseudo-keypoint.
        with_keypoints (sequence of int): classes that have keypoints; None = all.
        quality (bool): False: each pseudo-keypoint has the weight 1.

    Returns:
        Tensor: (R, K, 3), rows (x, y, weight). The weight is the score, at most 1. It is 0 where the score is too low,
        or the class has no keypoints.
    """
    scores = keypoints[:, :, 2]
    used = scores >= score_threshold
    if with_keypoints is not None:
        used &= torch.isin(classes, classes.new_tensor(list(with_keypoints)))[:, None]
    # Detectron2 takes the score from an interpolated heat map, so that it can be above 1
    weights = scores.clamp(max=1.0) if quality else torch.ones_like(scores)
    return torch.cat([keypoints[:, :, :2], (weights * used)[:, :, None]], dim=2)


@torch.no_grad()
def undecided_boxes(instances, pseudo, ignore_score):
    """Detections that are not pseudo-boxes, but may be objects. The student must not learn them as background.

    Args:
        instances (Instances): M detections of an image, as in :func:`select_pseudo_boxes`.
        pseudo (Instances): the pseudo-boxes that were selected from them.
        ignore_score (float): minimum score.

    Returns:
        Tensor: (U, 4) boxes. A box may be undecided because its score is below delta, because it is too small, because
        there are too many boxes, or because it overlaps a box with a higher score.
    """
    boxes, classes = instances.pred_boxes.tensor, instances.pred_classes
    same = (boxes[:, None] == pseudo.gt_boxes.tensor).all(dim=2) & (classes[:, None] == pseudo.gt_classes)
    undecided = (instances.scores >= ignore_score) & _large(boxes, 0.0) & ~same.any(dim=1)
    # The host has just waited for the number of pseudo-boxes, so it hardly waits here. Without this selection, all M
    # boxes would be compared with all anchors, which costs more.
    return boxes[undecided.nonzero()[:, 0]]


def _confident(instances, score_threshold):
    if not isinstance(score_threshold, (int, float)):
        delta = torch.as_tensor(score_threshold, dtype=instances.scores.dtype, device=instances.scores.device)
        score_threshold = delta[instances.pred_classes] if delta.dim() else delta
    return instances.scores >= score_threshold


def _large(boxes, min_size):
    sides = boxes[:, 2:] - boxes[:, :2]
    return ((sides >= min_size) & (sides > 0)).all(dim=1)


@torch.no_grad()
def rejection_reasons(
    instances, score_threshold, nms_threshold=None, *, max_boxes=None, min_size=0.0, ignore_score=0.0
):
    """The reason why :func:`select_pseudo_boxes` rejects each detection.

    Args:
        instances, score_threshold, nms_threshold, max_boxes, min_size: as there.
        ignore_score (float): as in :func:`undecided_boxes`. 0 = no detection is undecided.

    Returns:
        list[str]: "" for a pseudo-box. For other detections, the first reason that applies: "score", or "undecided"
        where the score is too low but at least ``ignore_score``; "size"; "NMS" where it overlaps a detection of its
        class with a higher score; "count" where there are more than ``max_boxes``.
    """
    boxes, scores, classes = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
    sure, large = _confident(instances, score_threshold), _large(boxes, min_size)
    candidates = (sure & large).nonzero()[:, 0]
    if nms_threshold is None:
        order = scores[candidates].argsort(descending=True, stable=True)
    else:
        order = batched_nms(boxes[candidates].float(), scores[candidates].float(), classes[candidates], nms_threshold)
    best = candidates[order].tolist()
    kept, surplus = set(best[:max_boxes]), set(best[len(best[:max_boxes]) :])
    undecided = (scores >= ignore_score) & _large(boxes, 0.0) & (ignore_score > 0)
    reasons = []
    for i, (is_sure, is_large, is_undecided) in enumerate(zip(sure.tolist(), large.tolist(), undecided.tolist())):
        reason = "" if i in kept else "count" if i in surplus else "NMS"
        unsure = "undecided" if is_undecided else "score"
        reasons.append(reason if is_sure and is_large else "size" if is_sure else unsure)
    return reasons


@torch.no_grad()
def sem_seg_pseudo_labels(logits, threshold):
    """The pseudo-labels of all pixels, and the quality of each image (MIC, Eq. 8-9).

    Args:
        logits (Tensor): (N, C, H, W) logits of the teacher.
        threshold (float): tau. A pixel is confident where its highest probability is above it.

    Returns:
        (Tensor, Tensor): labels (N, H, W) int64, the most probable class of each pixel; quality (N,), the share of
        confident pixels in each image.
    """
    top, labels = logits.float().softmax(dim=1).max(dim=1)
    return labels, (top > threshold).float().mean(dim=(1, 2))
