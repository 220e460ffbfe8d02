"""Boxes drawn by OpenCV, for environments without Matplotlib and Detectron2."""

import cv2
import numpy as np

COLORS = ((228, 60, 60), (60, 140, 230), (70, 180, 80), (240, 160, 30), (160, 90, 200), (0, 180, 180), (220, 110, 180))
LEAST_WIDTH = 800  # of a picture in pixels, so that labels are legible


def draw_boxes(image, boxes, classes, scores=None, class_names=()):
    """
    Args:
        image (ndarray): (H, W, 3) RGB uint8.
        boxes (array): (M, 4), XYXY pixels of ``image``.
        classes (sequence of int), scores (sequence of float), class_names (sequence of str).

    Returns:
        ndarray: (H', W', 3) RGB uint8.
    """
    scale = max(1, round(LEAST_WIDTH / image.shape[1]))
    picture = np.ascontiguousarray(image.repeat(scale, axis=0).repeat(scale, axis=1))
    size = picture.shape[1] / 1600
    thick = max(1, round(2 * size))
    for i in np.argsort([-(b[2] - b[0]) * (b[3] - b[1]) for b in boxes]):  # small ones above large ones
        x0, y0, x1, y1 = (round(float(v) * scale) for v in boxes[i])
        color = COLORS[classes[i] % len(COLORS)]
        cv2.rectangle(picture, (x0, y0), (x1, y1), color, thick)
        label = _label(classes[i], class_names) + ("" if scores is None else f" {scores[i]:.2f}")
        (width, height), below = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, size, thick)
        top = max(0, y0 - height - below - 2)
        cv2.rectangle(picture, (x0, top), (x0 + width, top + height + below + 2), (0, 0, 0), -1)
        cv2.putText(picture, label, (x0, top + height + 1), cv2.FONT_HERSHEY_SIMPLEX, size, color, thick, cv2.LINE_AA)
    return picture


def _label(number, names):
    """A class's name, or "class 3" where OpenCV's font lacks a character of it."""
    name = names[number] if number < len(names) else ""
    return name if name and name.isascii() else f"class {number}"
