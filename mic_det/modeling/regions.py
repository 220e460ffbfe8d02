"""An R-CNN's own parts, called one by one: proposals, features of given regions, losses on sampled regions.

Detectron2's ``forward`` of an RPN or of RoI heads goes from features to losses in one call. Where a step
needs what lies between (regions without labels, features that two losses share), these functions call
the same methods in the same order.
"""

from dataclasses import dataclass

import torch
from detectron2.layers import cat
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, heatmaps_to_keypoints


@dataclass
class Regions:
    """Regions of N images: ``boxes`` (N ``Boxes``, input frame) and the box head's ``features`` (R, D) of all."""

    boxes: list[Boxes]
    features: torch.Tensor

    @staticmethod
    def join(parts):
        """The regions of several groups of images, as those of one group."""
        return Regions([b for part in parts for b in part.boxes], cat([part.features for part in parts]))


def box_pooler(roi_heads):
    """The pooler of a box head and the names of the feature maps that it reads."""
    if isinstance(roi_heads, StandardROIHeads):
        return roi_heads.box_pooler, tuple(roi_heads.box_in_features)
    return roi_heads.pooler, tuple(roi_heads.in_features)


def box_feature_size(roi_heads):
    """D, the length of the vector that the box predictor gets for a region."""
    return roi_heads.box_predictor.cls_score.in_features


def region_features(roi_heads, features, boxes):
    """The box head's features of given regions.

    Args:
        roi_heads (StandardROIHeads or Res5ROIHeads): whose pooler and head are used.
        features (dict): backbone features of N images.
        boxes (list[Boxes]): N sets of regions, in the input frame of those images.

    Returns:
        Tensor: (R, D), the box predictor's input.
    """
    return _pooled_and_features(roi_heads, features, boxes)[1]


def _pooled_and_features(roi_heads, features, boxes):
    pooler, names = box_pooler(roi_heads)
    pooled = pooler([features[f] for f in names], boxes)
    if isinstance(roi_heads, StandardROIHeads):
        x = roi_heads.box_head(pooled)
        return pooled, x.flatten(1)
    x = roi_heads.res5(pooled)
    return x, x.mean(dim=[2, 3])


def mask_features(roi_heads, features, boxes):
    """The mask head's input (R, C, S, S) for given regions; arguments as above."""
    if isinstance(roi_heads, StandardROIHeads):
        return roi_heads.mask_pooler([features[f] for f in roi_heads.mask_in_features], boxes)
    return _pooled_and_features(roi_heads, features, boxes)[0]


def keypoint_features(roi_heads, features, boxes):
    """The keypoint head's input (R, C, S, S) for given regions; arguments as above, with StandardROIHeads."""
    return roi_heads.keypoint_pooler([features[f] for f in roi_heads.keypoint_in_features], boxes)


@torch.no_grad()
def region_keypoints(roi_heads, features, boxes):
    """The keypoints that a Keypoint R-CNN head predicts in given regions; arguments as above.

    Returns:
        list[Tensor]: N tensors (R_i, K, 3), rows (x, y, score) in the input frame. The score is Detectron2's: the
        probability of the best cell of the heat map. They are computed in float32: bfloat16 would round coordinates
        from 256 on to even numbers.
    """
    logits = roi_heads.keypoint_head.layers(keypoint_features(roi_heads, features, boxes))
    found = heatmaps_to_keypoints(logits.float(), cat([b.tensor for b in boxes]).float())
    return list(found[:, :, [0, 1, 3]].split([len(b) for b in boxes]))


def region_scores(roi_heads, features, boxes):
    """Class logits (R, K + 1), background last, and box deltas of given regions; arguments as above."""
    return roi_heads.box_predictor(region_features(roi_heads, features, boxes))


def supervised_roi_losses(roi_heads, features, proposals, truth):
    """The training losses of RoI heads, as their ``forward`` computes them, and the regions they used.

    Args:
        roi_heads (StandardROIHeads or Res5ROIHeads): in training mode.
        features (dict): backbone features of N images.
        proposals, truth (list[Instances]): N of each, as in Detectron2.

    Returns:
        (dict[str, Tensor], Regions): losses, and the sampled regions with their features.
    """
    sampled = roi_heads.label_and_sample_proposals(proposals, truth)
    boxes = [x.proposal_boxes for x in sampled]
    pooled, x = _pooled_and_features(roi_heads, features, boxes)
    predictions = roi_heads.box_predictor(x)
    losses = roi_heads.box_predictor.losses(predictions, sampled)
    if isinstance(roi_heads, StandardROIHeads):
        if roi_heads.train_on_pred_boxes:
            with torch.no_grad():
                predicted = roi_heads.box_predictor.predict_boxes_for_gt_classes(predictions, sampled)
            for instances, b in zip(sampled, predicted):
                instances.proposal_boxes = Boxes(b)
        losses.update(roi_heads._forward_mask(features, sampled))
        losses.update(roi_heads._forward_keypoint(features, sampled))
    elif roi_heads.mask_on:
        foreground, chosen = select_foreground_proposals(sampled, roi_heads.num_classes)
        losses.update(roi_heads.mask_head(pooled[cat(chosen)], foreground))
    return losses, Regions(boxes, x)


def rpn_predictions(rpn, features):
    """Anchors, objectness logits and box deltas of an RPN, in the order that its other methods take.

    Returns:
        (list[Boxes], list[Tensor], list[Tensor]): one entry a level: anchors, logits (N, H W A) and
        deltas (N, H W A, B).
    """
    maps = [features[f] for f in rpn.in_features]
    anchors = rpn.anchor_generator(maps)
    logits, deltas = rpn.rpn_head(maps)
    # (N, A * B, H, W) -> (N, H * W * A, B), Detectron2's order of anchors
    logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
    box_dim = rpn.anchor_generator.box_dim
    deltas = [
        x.view(x.shape[0], -1, box_dim, x.shape[-2], x.shape[-1]).permute(0, 3, 4, 1, 2).flatten(1, -2) for x in deltas
    ]
    return anchors, logits, deltas


def unlabelled_regions(student, images, features, num_per_image):
    """Proposals drawn at random, without labels, and their features.

    Args:
        student (nn.Module): an R-CNN in training mode.
        images (ImageList), features (dict): N images and their backbone features.
        num_per_image (int): at most this number of an image's proposals.

    Returns:
        Regions: gradients reach ``features`` and the box head through its features, not the RPN.
    """
    rpn = student.proposal_generator
    with torch.no_grad():
        proposals = rpn.predict_proposals(*rpn_predictions(rpn, features), images.image_sizes)
        boxes = []
        for x in proposals:
            chosen = torch.randperm(len(x), device=x.proposal_boxes.device)[:num_per_image]
            boxes.append(x.proposal_boxes[chosen])
    return Regions(boxes, region_features(student.roi_heads, features, boxes))
