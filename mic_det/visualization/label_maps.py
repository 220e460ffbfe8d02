"""Pictures of label maps: predictions, pseudo-labels, quality, mixtures, truth."""

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb

from ..modeling.mixing import class_mix
from ..modeling.pixel_labels import PixelLabels
from .label_colors import color_labels


def sem_seg_panels(model, batched_input, taught, source=None, input_format="BGR"):
    """What a MIC with a segmentation head makes of the pixels of one target image.

    Args:
        model (MIC): in eval mode.
        batched_input (dict): one mapped target image; with ``"sem_seg"`` where the truth is known.
        taught (PseudoLabelMaps): of this image.
        source (dict): a mapped source image with ``"sem_seg"``, to show ClassMix with.
        input_format (str): order of the images' channels.

    Returns:
        list[(str, ndarray)]: caption and RGB picture of each panel, in the size of ``"image"``.
    """
    ignored = model.student.sem_seg_head.ignore_value
    height, width = batched_input["image"].shape[-2:]
    answer = model.inference([{**batched_input, "height": height, "width": width}])[0]["sem_seg"].argmax(dim=0)
    labels, weights = taught.pixels[0].labels.cpu().numpy(), taught.pixels[0].weights.cpu().numpy()
    pseudo = color_labels(labels, ignored)
    pseudo[weights == 0] //= 3  # what counts nothing is dark
    panels = [
        ("predicted labels", color_labels(answer.cpu().numpy(), ignored)),
        (f"teacher's pseudo-labels, q = {float(taught.quality[0]):.2f}", pseudo),
    ]
    if source is not None:
        truth = PixelLabels.of_truth(source["sem_seg"])
        own = PixelLabels(taught.pixels[0].labels.cpu(), taught.pixels[0].weights.cpu())
        image, mixed, _ = class_mix(source["image"], truth, batched_input["image"], own, ignored)
        mixed_rgb = convert_image_to_rgb(image.permute(1, 2, 0), input_format)
        panels.append(("mixed with a source image", mixed_rgb))
        panels.append(("labels of the mixture", color_labels(mixed.labels.numpy(), ignored)))
    if "sem_seg" in batched_input:
        panels.append(("true labels", color_labels(torch.as_tensor(batched_input["sem_seg"]).cpu().numpy(), ignored)))
    return panels


def compared_label_maps(image, maps, truth=None, ignored=255):
    """An image, the label maps of several models, and the truth.

    Args:
        image (ndarray): (H, W, 3) RGB uint8.
        maps (dict): name -> label map (H, W) of integers.
        truth (ndarray): true labels (H, W); None = unknown.
        ignored (int): the label of pixels that are neither judged nor coloured.

    Returns:
        list[(str, ndarray)]: caption and RGB picture of each panel. With a truth, the captions tell the share of right
        pixels among those with a true label.
    """
    panels = [("image", image)]
    judged = truth is not None and truth != ignored
    for name, labels in maps.items():
        right = f": {(labels == truth)[judged].mean():.1%} of the pixels" if np.any(judged) else ""
        panels.append((f"{name}{right}", color_labels(labels, ignored)))
    if truth is not None:
        panels.append(("true labels", color_labels(truth, ignored)))
    return panels
