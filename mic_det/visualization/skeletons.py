"""Keypoints in pictures, and the lines between them."""

import logging
from dataclasses import dataclass
from typing import Optional

import cv2
import numpy as np

from ..data.keypoints import keypoint_classes, keypoint_lines
from ..errors import DataError

HIDDEN, HOLLOW, FILLED = 0, 1, 2  # as COCO's visibility: not in the image, covered, visible


@dataclass
class Skeleton:
    """``lines`` are pairs of numbers of keypoints. ``classes`` have keypoints; None = all classes.

    Predicted keypoints are filled from ``least_score`` on.
    """

    lines: list
    classes: Optional[list] = None
    least_score: float = 0.05

    @classmethod
    def of_set(cls, name, least_score=0.05):
        """The skeleton of a registered set; without lines where the set cannot tell it."""
        try:
            if name:
                return cls(keypoint_lines(name), keypoint_classes(name), least_score)
        except (DataError, OSError) as e:  # a picture needs no data set
            logging.getLogger(__name__).debug("the skeleton of %s is not known: %s", name, e)
        return cls([], None, least_score)

    def styled(self, keypoints, classes):
        """Predicted keypoints (M, K, 3), rows (x, y, score), of boxes of M classes, as rows (x, y, style)."""
        rows = np.array(keypoints, dtype=float)
        rows[:, :, 2] = np.where(rows[:, :, 2] >= self.least_score, FILLED, HOLLOW)
        has = [self.classes is None or c in self.classes for c in classes]
        rows[:, :, 2] *= np.array(has, dtype=float).reshape(-1, 1)
        return rows


def draw_skeletons(image, keypoints, skeleton, colors):
    """Draw the keypoints of M objects, and lines between them.

    Args:
        image (ndarray): (H, W, 3) RGB uint8.
        keypoints (array): (M, K, 3), rows (x, y, style) in pixels of the image. The style is 2 for a filled point, 1
            for a hollow one and 0 for none. A line ends at filled points alone.
        skeleton (Skeleton): names the lines; None = no lines.
        colors (sequence): M colours, RGB in [0, 1].

    Returns:
        ndarray: a copy of the image.
    """
    image = np.ascontiguousarray(image).copy()
    for rows, color in zip(keypoints, colors):
        color = tuple(round(255 * float(c)) for c in color)
        places = [(round(16 * float(x)), round(16 * float(y))) for x, y, _ in rows]  # OpenCV's 1/16 of a pixel
        shown = [place for place, style in zip(places, rows[:, 2]) if style != HIDDEN]
        extent = np.ptp(shown, axis=0).max() / 16 if shown else 0
        # far figures have small points, so that these do not cover each other
        radius, thick = round(16 * min(max(0.03 * extent, 1.5), 5)), 2 if extent > 80 else 1
        for a, b in skeleton.lines if skeleton else ():
            if rows[a][2] == rows[b][2] == FILLED:
                cv2.line(image, places[a], places[b], color, thick, cv2.LINE_AA, 4)
        for place, style in zip(places, rows[:, 2]):
            if style == FILLED:
                cv2.circle(image, place, radius, (255, 255, 255), -1, cv2.LINE_AA, 4)
            if style != HIDDEN:
                cv2.circle(image, place, radius, color, 1, cv2.LINE_AA, 4)
    return image
