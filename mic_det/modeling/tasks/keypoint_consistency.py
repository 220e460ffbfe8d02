"""The term of keypoints in L_M: the student's heat maps of masked images against the teacher's pseudo-keypoints."""

import torch.nn.functional as F
from detectron2.layers import cat

from ..regions import keypoint_features


def keypoint_loss(roi_heads, features, sampled):
    """Detectron2's loss of keypoints, with a weight for each keypoint.

    Args:
        roi_heads (StandardROIHeads): the student's, with a Keypoint R-CNN head.
        features (dict): backbone features of N images.
        sampled (list[Instances]): sampled proposals of N images, with ``gt_classes`` and, where an image has labels,
            ``gt_keypoints``, rows (x, y, weight). The weight is 0 where there is no keypoint to learn.

    Returns:
        Tensor: a scalar. The cross entropy of each heat map, where its keypoint is inside of the region, is multiplied
        by the weight. The sum is divided by the number of these keypoints, or by the constant of
        ``MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS`` False. Without a keypoint it is 0, and still
        depends on the head's weights.
    """
    head = roi_heads.keypoint_head
    chosen = [x[_has_keypoints(x, roi_heads.num_classes)] for x in sampled]
    logits = head.layers(keypoint_features(roi_heads, features, [x.proposal_boxes for x in chosen]))
    chosen = [x for x in chosen if len(x)]
    if not chosen:
        return logits.sum() * 0.0
    side = logits.shape[-1]
    found = [x.gt_keypoints.to_heatmap(x.proposal_boxes.tensor, side) for x in chosen]
    cells, inside = cat([c for c, _ in found]).flatten(), cat([i for _, i in found]).flatten()
    weights = cat([x.gt_keypoints.tensor[:, :, 2] for x in chosen]).flatten() * inside
    losses = F.cross_entropy(logits.float().flatten(2).flatten(0, 1), cells, reduction="none")
    visible = head.loss_normalizer == "visible"
    normalizer = inside.sum().clamp(min=1) if visible else len(sampled) * head.loss_normalizer
    return (losses * weights.detach()).sum() / normalizer


def _has_keypoints(instances, num_classes):
    """Rows of the foreground regions that have a keypoint to learn."""
    if not len(instances) or not instances.has("gt_keypoints"):  # an image without labels has background alone
        return instances.gt_classes[:0]
    foreground = (instances.gt_classes >= 0) & (instances.gt_classes < num_classes)
    _, inside = instances.gt_keypoints.to_heatmap(instances.proposal_boxes.tensor, 1)  # one cell: the region itself
    return (foreground & (inside.sum(dim=1) > 0)).nonzero()[:, 0]
