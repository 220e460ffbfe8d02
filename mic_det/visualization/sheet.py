"""Captioned pictures, joined into one."""

import cv2
import numpy as np

MIN_WIDTH = 800  # pixels; narrower pictures are enlarged, so that labels are legible


def contact_sheet(rows, columns=None):
    """Join rows of captioned panels into one picture.

    Args:
        rows (list[list[(str, ndarray)]]): panels (H, W, 3), RGB uint8; all get the room of the first one, in which
            those of another size keep their shape.
        columns (int): longer rows are continued in the next line; None = never.

    Returns:
        ndarray: RGB uint8; every panel has its caption above it.
    """
    rows = [row[i : i + (columns or len(row))] for row in rows for i in range(0, len(row), columns or len(row))]
    height, width = rows[0][0][1].shape[:2]
    columns = max(map(len, rows))
    strips = []
    for row in rows:
        cells = [np.concatenate([_caption(text, width), _fitted(image, width, height)]) for text, image in row]
        cells += [np.full_like(cells[0], 255)] * (columns - len(cells))
        strips.append(np.concatenate(cells, axis=1))
    return np.concatenate(strips)


def _fitted(image, width, height):
    """The picture as large as it can be in a white cell, with its own ratio of width to height, in the middle."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    if size != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    cell = np.full((height, width, 3), 255, np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    cell[top : top + size[1], left : left + size[0]] = image
    return cell


def caption_height(width):
    """Height (pixels) of the caption of a panel of this width."""
    return round(36 * max(1.0, width / MIN_WIDTH))


def _caption(text, width):
    """A white strip with a caption; as legible in a wide picture as in one of 800 pixels."""
    size = max(1.0, width / MIN_WIDTH)
    height, thickness = caption_height(width), max(2, round(2 * size))
    text_width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.8 * size, thickness)[0][0]
    fit = min(1.0, (width - 16) / text_width) if width > 16 and text_width else 1.0
    strip = np.full((height, width, 3), 255, np.uint8)
    at = (8, height - round(11 * size))
    cv2.putText(strip, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.8 * size * fit, (0, 0, 0), thickness, cv2.LINE_AA)
    return strip
