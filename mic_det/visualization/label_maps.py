"""Pictures of label maps in Cityscapes' colours: predictions, pseudo-labels, quality, mixtures, truth."""

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb

from ..modeling.mixing import class_mix
from ..modeling.pixel_labels import PixelLabels

# Cityscapes' colours of the train ids 0 to 18
CITYSCAPES_COLORS = np.array(
    [(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
     (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
     (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)], np.uint8
)  # fmt: skip


def color_labels(labels, ignore_value=255):
    """Labels (H, W) -> RGB (H, W, 3) uint8; ignored pixels are black, classes beyond 19 repeat the colours."""
    labels = np.asarray(labels)
    picture = CITYSCAPES_COLORS[labels % len(CITYSCAPES_COLORS)]
    picture[labels == ignore_value] = 0
    return picture


def overlay_labels(rgb, labels, ignore_value=255):
    """An RGB image (H, W, 3) uint8 with the colours of its labels (H, W) laid over it, half each."""
    return ((rgb.astype(np.uint16) + color_labels(labels, ignore_value)) // 2).astype(np.uint8)


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
