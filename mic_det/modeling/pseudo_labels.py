"""Pseudo-labels from the teacher's predictions (MIC, Sec. 3.2 and 3.3)."""

import torch
from detectron2.structures import Boxes, Instances
from torchvision.ops import batched_nms


@torch.no_grad()
def select_pseudo_boxes(instances, score_threshold, nms_threshold=None, *, max_boxes=None, min_size=0.0):
    """Keep the teacher's confident detections as pseudo-boxes of one image.

    Args:
        instances (Instances): detections with ``pred_boxes`` (M boxes, XYXY pixels), ``scores`` (M)
            and ``pred_classes`` (M); those of Mask R-CNN also with ``pred_masks`` (M, 1, S, S), probabilities in each
            box.
        score_threshold (float or sequence): least score delta, one for all or one a class.
        nms_threshold (float): IoU of a class-wise non-maximum suppression; None leaves it out.
        max_boxes (int): keep at most this number, the best; None keeps all.
        min_size (float): least width and height in pixels. A box without width or height (detections that are clipped
            at the image's border may have none) is never kept: it overlaps no anchor, which makes all of them match.

    Returns:
        Instances: ``gt_boxes``, ``gt_classes`` and ``scores``, sorted by descending score, in the
        frame of ``instances``; with masks also ``mask_probs`` (K, S, S).
    """
    boxes, scores, classes = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
    keep = _confident(instances, score_threshold) & _large(boxes, min_size)
    keep = keep.nonzero()[:, 0]  # the one number of a step that the host must know: how many there are
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
def undecided_boxes(instances, pseudo, ignore_score):
    """Detections that are no pseudo-boxes but may well be objects: their places are not to be taught as background.

    Args:
        instances (Instances): M detections of an image, as in :func:`select_pseudo_boxes`.
        pseudo (Instances): the pseudo-boxes that were selected from them.
        ignore_score (float): least score.

    Returns:
        Tensor: (U, 4). Undecided are not only boxes whose score is too low: also those that were too small, too many,
        or overlapped by a better one.
    """
    boxes, classes = instances.pred_boxes.tensor, instances.pred_classes
    same = (boxes[:, None] == pseudo.gt_boxes.tensor).all(dim=2) & (classes[:, None] == pseudo.gt_classes)
    undecided = (instances.scores >= ignore_score) & _large(boxes, 0.0) & ~same.any(dim=1)
    # the host waits for their number just after it has waited for that of the pseudo-boxes, so there is nothing to wait
    # for; all M boxes against all anchors would cost more
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
    """Why :func:`select_pseudo_boxes` leaves detections out; its arguments, and ``ignore_score``, 0 = none.

    Returns:
        list[str]: for each detection "" where it is a pseudo-box, else the first that applies of "score" (or
        "undecided", where the score is too low but at least ``ignore_score``), "size", "NMS" (overlaps a better one of
        its class) and "count" (more than ``max_boxes``).
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
    """Per-pixel pseudo-labels and the quality of each image (MIC, Eq. 8-9).

    Args:
        logits (Tensor): (N, C, H, W), the teacher's.
        threshold (float): tau; a pixel is sure when its top probability exceeds it.

    Returns:
        (Tensor, Tensor): labels (N, H, W) int64, the most probable class; quality (N,), the share of
        sure pixels of each image.
    """
    top, labels = logits.float().softmax(dim=1).max(dim=1)
    return labels, (top > threshold).float().mean(dim=(1, 2))
