"""The term of instance masks in L_M: the student's masks of masked images against the teacher's pseudo-masks."""

import torch
import torch.nn.functional as F
from detectron2.layers import cat

from ..regions import mask_features


def mask_loss(roi_heads, features, sampled, q, soft=False):
    """Binary cross entropy of the masks of sampled foreground regions, each times its quality.

    Only regions that are matched to a label have a mask to learn, so undecided boxes are in no region's target.

    Args:
        roi_heads (StandardROIHeads or Res5ROIHeads): the student's, with a Mask R-CNN head.
        features (dict): backbone features of N images.
        sampled (list[Instances]): sampled proposals of N images, with ``gt_classes`` and, where an image has labels,
            ``gt_boxes`` with ``gt_mask_probs`` (pseudo-masks) or ``gt_masks`` (true masks).
        q (Tensor): (R,), quality of all sampled regions.
        soft (bool): whether the target of a pixel is the teacher's probability, not its label.

    Returns:
        Tensor: a scalar: the mean over foreground regions of q times the mean over the region's pixels.
    """
    chosen = [((x.gt_classes >= 0) & (x.gt_classes < roi_heads.num_classes)).nonzero()[:, 0] for x in sampled]
    rows = torch.cat([i + start for i, start in zip(chosen, _starts(sampled))])
    foreground = [x[i] for x, i in zip(sampled, chosen)]
    logits = roi_heads.mask_head.layers(mask_features(roi_heads, features, [x.proposal_boxes for x in foreground]))
    if not len(rows):
        return logits.sum() * 0.0
    side = logits.shape[-1]
    targets = cat([_targets(x, side, soft) for x in foreground if len(x)])
    classes = cat([x.gt_classes for x in foreground])
    if logits.shape[1] == 1:  # one mask for all classes
        classes = torch.zeros_like(classes)
    logits = logits[torch.arange(len(rows), device=rows.device), classes].float()
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=(1, 2))
    return (loss * q[rows].detach()).sum() / len(rows)


@torch.no_grad()
def _targets(instances, side, soft):
    """Targets (R, side, side) in [0, 1] of regions of one image."""
    regions = instances.proposal_boxes.tensor
    if not instances.has("gt_mask_probs"):
        return instances.gt_masks.crop_and_resize(regions, side).to(regions.device).float()
    probs = resampled(instances.gt_mask_probs, instances.gt_boxes.tensor, regions, side)
    return probs if soft else (probs >= 0.5).float()


def resampled(masks, boxes, regions, side):
    """Masks that are given in their boxes, seen in other regions of the same image.

    A mask's cells are equal parts of its box, so masks need no change where the image is scaled. Outside of its box a
    mask is 0.

    Args:
        masks (Tensor): (R, S, S), probabilities.
        boxes, regions (Tensor): (R, 4), XYXY, in one frame.
        side (int): cells of a side of each region.

    Returns:
        Tensor: (R, side, side), interpolated at the centres of the regions' cells.
    """
    centres = (torch.arange(side, device=masks.device) + 0.5) / side
    places = []
    for low, high in ((0, 2), (1, 3)):
        at = regions[:, low, None] + centres * (regions[:, high] - regions[:, low])[:, None]
        places.append((at - boxes[:, low, None]) / (boxes[:, high] - boxes[:, low])[:, None].clamp(min=1e-6) * 2 - 1)
    x, y = (p[:, None, :].expand(-1, side, -1) if i == 0 else p[:, :, None].expand(-1, -1, side)
            for i, p in enumerate(places))  # fmt: skip
    inside = (x.abs() <= 1) & (y.abs() <= 1)
    grid = torch.stack([x, y], dim=3).float()
    found = F.grid_sample(masks[:, None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False)[
        :, 0
    ]
    return found * inside


def _starts(sampled):
    """The row of each image's first region."""
    starts = [0]
    for x in sampled[:-1]:
        starts.append(starts[-1] + len(x))
    return starts
