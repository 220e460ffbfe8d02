"""Margins of an image that count nothing, in the frame of the view that augmentations make of it."""

import numpy as np
import torch


class RecordedAugmentations:
    """Augmentations that remember what they did to the last image, so that other maps can be transformed alike."""

    def __init__(self, augmentations):
        """
        Args:
            augmentations (callable): takes an ``AugInput``, transforms it and returns the ``TransformList``.
        """
        self.augmentations = augmentations
        self.size = self.transforms = None

    def __call__(self, aug_input):
        self.size = tuple(aug_input.image.shape[:2])
        self.transforms = self.augmentations(aug_input)
        return self.transforms

    def valid_pixels(self, margins):
        """Which pixels of the last image's view lie outside the margins.

        Args:
            margins (sequence): top, bottom, left and right of the original image; see :func:`inside_margins`.

        Returns:
            Tensor: (H, W) bool, of the view's size. Pixels that a transform has added, such as padding, are False.
        """
        inside = inside_margins(self.size, margins).astype(np.uint8)
        return torch.from_numpy(np.ascontiguousarray(self.transforms.apply_segmentation(inside) == 1))


def inside_margins(size, margins):
    """
    Args:
        size ((int, int)): height and width.
        margins (sequence): top, bottom, left and right: below 1 a share of the height or width, else pixels.

    Returns:
        ndarray: (H, W) bool, False in the margins.

    Raises:
        ValueError: where nothing lies between them.
    """
    height, width = size
    top, bottom, left, right = (
        round(m * extent) if m < 1 else round(m) for m, extent in zip(margins, (height, height, width, width))
    )
    inside = np.zeros(size, bool)
    inside[top : max(top, height - bottom), left : max(left, width - right)] = True
    if not inside.any():
        raise ValueError(
            f"MODEL.MIC.SEM_SEG.MARGINS {tuple(margins)} leave nothing of its {height} rows and {width} columns: they "
            "are top, bottom, left and right of the original image, in pixels or, below 1, as shares."
        )
    return inside
