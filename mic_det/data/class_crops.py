"""Squares of images for a classifier: resized, cut, and flipped."""

import math

import numpy as np
from detectron2.data import transforms as T

ASPECTS = (3 / 4, 4 / 3)  # width to height of a part, as of torchvision
TRIES = 10  # as of torchvision; then the largest part in the middle


class CenterCrop(T.Augmentation):
    """Cuts the centre of an image."""

    def __init__(self, size):
        """
        Args:
            size (int): side in pixels; at most the image's.
        """
        super().__init__()
        self.size = size

    def get_transform(self, image):
        height, width = image.shape[:2]
        return T.CropTransform((width - self.size) // 2, (height - self.size) // 2, self.size, self.size)


class RandomResizedCrop(T.Augmentation):
    """Cuts a part of random area and aspect ratio, and resizes it to a square."""

    def __init__(self, size, scale):
        """
        Args:
            size (int): side of the square in pixels.
            scale ((float, float)): range of the part's share of the image's area.
        """
        super().__init__()
        self.size, self.scale = size, tuple(scale)

    def get_transform(self, image):
        height, width = image.shape[:2]
        x, y, w, h = self._part(height, width)
        return T.TransformList([T.CropTransform(x, y, w, h), T.ResizeTransform(h, w, self.size, self.size)])

    def _part(self, height, width):
        for _ in range(TRIES):
            area = height * width * np.random.uniform(*self.scale)
            ratio = math.exp(np.random.uniform(*map(math.log, ASPECTS)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return np.random.randint(width - w + 1), np.random.randint(height - h + 1), w, h
        side = min(height, width)
        return (width - side) // 2, (height - side) // 2, side, side


def class_augmentations(cfg, is_train):
    """The augmentations of ``INPUT.IMAGE_CLASS``, and the flip of ``INPUT.RANDOM_FLIP`` in training."""
    keys = cfg.INPUT.IMAGE_CLASS
    cuts = {
        "center": CenterCrop(keys.CROP),
        "random": T.RandomCrop("absolute", (keys.CROP, keys.CROP)),
        "random_resized": RandomResizedCrop(keys.CROP, keys.SCALE),
    }
    found = [T.Resize((keys.SIZE, keys.SIZE)), cuts[keys.TRAIN_CROP if is_train else "center"]]
    if is_train and cfg.INPUT.RANDOM_FLIP != "none":
        vertical = cfg.INPUT.RANDOM_FLIP == "vertical"
        found.append(T.RandomFlip(horizontal=not vertical, vertical=vertical))
    return found
