"""Instance masks in pictures: the pixels of an object have the colour of its class, half and half."""

import numpy as np
from detectron2.layers import paste_masks_in_image
from detectron2.structures import BitMasks, PolygonMasks

SURE = 0.5  # least probability of a pixel of an object


def overlay_masks(image, masks, colors):
    """
    Args:
        image (ndarray): (H, W, 3) RGB uint8.
        masks (array): (M, H, W) bool. Where masks overlap, the pixel has the colour of the first.
        colors (sequence): M colours, RGB in [0, 1].

    Returns:
        ndarray: a copy of the image, with the mean of both colours in the masks.
    """
    image = np.array(image)
    free = np.ones(image.shape[:2], bool)
    for mask, color in zip(masks, colors):
        here = mask & free
        image[here] = image[here] // 2 + (np.asarray(color) * 127.5).astype(np.uint8)
        free &= ~mask
    return image


def predicted_masks(instances, boxes, shape):
    """The masks of detections as (M, H, W) bool arrays of an image of this shape; None where there are none.

    Args:
        instances (Instances): may have ``pred_masks`` of the whole image (M, H, W), or in the boxes (M, 1, S, S); or
            ``mask_probs`` in the boxes (M, S, S).
        boxes (Boxes): theirs.
    """
    if instances.has("mask_probs"):
        masks = instances.mask_probs
    elif instances.has("pred_masks"):
        masks = instances.pred_masks[:, 0] if instances.pred_masks.dim() == 4 else instances.pred_masks
    else:
        return None
    if masks.shape[1:] == shape[:2] and not masks.is_floating_point():
        return masks.cpu().numpy().astype(bool)
    return paste_masks_in_image(masks.float().cpu(), boxes.tensor.float().cpu(), shape[:2], SURE).numpy().astype(bool)


def true_masks(instances, shape):
    """The masks of true objects (``gt_masks``) as (M, H, W) bool arrays; None where there are none."""
    masks = instances.gt_masks if instances.has("gt_masks") else None
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *shape[:2])
    return masks.tensor.cpu().numpy().astype(bool) if isinstance(masks, BitMasks) else None
