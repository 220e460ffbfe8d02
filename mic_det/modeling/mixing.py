"""ClassMix: classes of a labelled source image pasted onto a target image (DACS, Tranheden et al., WACV 2021)."""

import torch

from .pixel_labels import PixelLabels


def class_mix(source_image, source, target_image, target, ignore_value=255, generator=None):
    """Paste half of the source image's classes, with their labels, onto the target image.

    Args:
        source_image, target_image (Tensor): (3, H, W) of any sizes; the paste goes to the same rows and columns.
        source, target (PixelLabels): their labels and weights.
        ignore_value (int): label of pixels that are never pasted.
        generator (torch.Generator): draws the classes, on the CPU.

    Returns:
        (Tensor, PixelLabels, Tensor): mixed image, its labels and weights, all of the target's size, and the
        mask (H, W) bool of pasted pixels, whose weight is 1.
    """
    height = min(source_image.shape[-2], target_image.shape[-2])
    width = min(source_image.shape[-1], target_image.shape[-1])
    part = source.labels[:height, :width]
    classes = torch.unique(part)
    classes = classes[classes != ignore_value]
    chosen = classes[torch.randperm(len(classes), generator=generator).to(classes.device)[: (len(classes) + 1) // 2]]
    mask = torch.zeros_like(target.labels, dtype=torch.bool)
    mask[:height, :width] = torch.isin(part, chosen)
    inside = mask[:height, :width]
    image, labels, weights = target_image.clone(), target.labels.clone(), target.weights.clone()
    image[:, :height, :width] = torch.where(inside, source_image[:, :height, :width], image[:, :height, :width])
    labels[:height, :width] = torch.where(inside, part, labels[:height, :width])
    weights[mask] = 1.0
    return image, PixelLabels(labels, weights), mask


def mix_batch(source, source_labels, target, target_labels, ignore_value, device):
    """:func:`class_mix` for each of N target dicts, with source images taken in turn.

    Args:
        source, target (list[dict]): with ``"image"`` (3, H, W).
        source_labels, target_labels (list[PixelLabels]): one for each of them, on ``device``.

    Returns:
        (list[dict], list[PixelLabels]): N dicts with the mixed ``"image"``, and its labels.
    """
    inputs, labels = [], []
    for i, x in enumerate(target):
        j = i % len(source)
        image, mixed, _ = class_mix(
            source[j]["image"].to(device), source_labels[j], x["image"].to(device), target_labels[i], ignore_value
        )
        inputs.append({"image": image})
        labels.append(mixed)
    return inputs, labels
