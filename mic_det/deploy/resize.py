"""Pillow's bilinear resizing of 8-bit images in numpy, bit for bit: as the images that the model was trained on."""

import numpy as np

BITS = 22  # of the fraction in Pillow's weights


def resized_shape(height, width, shorter, longer):
    """(height, width) of an image after Detectron2's ResizeShortestEdge; ``shorter`` 0 keeps it.

    Args:
        shorter (int): length of the shorter side in pixels, unless the longer one would exceed ``longer``.
    """
    if not shorter:
        return height, width
    scale = shorter / min(height, width)
    new = (float(shorter), scale * width) if height < width else (scale * height, float(shorter))
    if max(new) > longer:
        scale = longer / max(new)
        new = new[0] * scale, new[1] * scale
    return int(new[0] + 0.5), int(new[1] + 0.5)


def resize_bilinear(image, height, width):
    """
    Args:
        image (ndarray): (H, W, 3) uint8.

    Returns:
        ndarray: (height, width, 3) uint8, what ``PIL.Image.resize((width, height), BILINEAR)`` gives where both sides
            change by about the same factor. (Newer Pillows may begin with the columns: pixels then differ by 1.)
    """
    for axis, length in ((1, width), (0, height)):  # both passes round
        if image.shape[axis] != length:
            image = _along(image, axis, length)
    return np.ascontiguousarray(image)


def _along(image, axis, length):
    """One pass: a pixel is the mean of those under a triangle, whose width is that of a pixel of the smaller image."""
    first, weights = _triangles(image.shape[axis], length)
    shape = [1, 1, 1]
    shape[axis] = length
    total = np.full([length if i == axis else n for i, n in enumerate(image.shape)], 1 << (BITS - 1), np.int32)
    last = image.shape[axis] - 1
    for tap in range(weights.shape[1]):
        pixels = np.take(image, np.minimum(first + tap, last), axis).astype(np.int32)
        total += pixels * weights[:, tap].reshape(shape)
    return (total >> BITS).astype(np.uint8)


def _triangles(old, new):
    """First pixel (new,) and integer weights (new, taps) of each pixel's triangle; weights beyond it are 0."""
    scale = old / new
    support = max(scale, 1.0)
    centers = (np.arange(new) + 0.5) * scale
    first = np.maximum((centers - support + 0.5).astype(int), 0)
    end = np.minimum((centers + support + 0.5).astype(int), old)
    places = np.arange((end - first).max())
    weights = 1 - np.abs((places + first[:, None] - centers[:, None] + 0.5) * (1 / support))
    weights = np.where(places < (end - first)[:, None], np.maximum(weights, 0), 0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # summed one after the other, as Pillow does
    return first, (weights * (1 << BITS) + 0.5).astype(np.int32)
