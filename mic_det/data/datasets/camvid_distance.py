"""Distances in CamVid's images, only for fog. CamVid has no depth maps: the label map and a flat road give them.

The model of the street, in the order of its steps:

- The camera stands ``CAMERA_HEIGHT`` above a flat road and looks along it. Its focal length is the image's width, and
  the horizon is at ``HORIZON`` of the image's height. These three are our assumptions, not CamVid's calibration.
- Road and pavement: the distance where the ray of the pixel meets the road. It grows towards the horizon.
- Cars, persons, bicycles, poles and signs: each connected component stands on the road at its lowest row. All of it is
  at that distance.
- Buildings, trees and fences: each column of a connected component stands on the road at its own lowest row. Columns
  that end at a car, a person or another of these things are interpolated between the others. Each column then takes the
  nearest distance of those beside it. So a wall along the street gets farther column by column.
- The sky is at infinity.
- A component that ends above the horizon (a branch, a sign on a wall) takes the distance of the nearest pixel of its
  class. Pixels without a label take it from near pixels of a similar colour (:func:`~mic_det.data.fog.fill_invalid`).

An object whose lowest part is hidden gets too large a distance. The model has no hills. So the fog is plausible, not
exact.
"""

import cv2
import numpy as np

from ..fog import depth_to_distance, fill_invalid

CAMERA_HEIGHT = 1.5  # metres
HORIZON = 0.46  # of the image's height, from the top; the road's farthest rows in the labels are just below it
MAX_DEPTH = 500.0  # metres, of ground at the horizon
REACH = 0.05  # of the image's width: a wall's column may take its distance from columns within this reach
SKY, GROUND = ("sky",), ("road", "pavement")
THINGS, WALLS = ("car", "person", "bicycle", "pole", "sign"), ("building", "tree", "fence")


def distance_from_labels(labels, classes, image):
    """Distance along each pixel's ray, by the model of the street above.

    Args:
        labels (ndarray): (H, W) uint8, indices of ``classes``; other values mean no label.
        classes (sequence of str): names of the labels.
        image (ndarray): (H, W, 3) uint8; its colours guide the filling where labels give no distance.

    Returns:
        ndarray: (H, W) float64, metres; infinity in the sky.
    """
    height, width = labels.shape
    number = {name: i for i, name in enumerate(classes)}
    near = np.full((height, width), np.nan)  # 1 / depth: this can be interpolated
    near[labels == number["sky"]] = 0
    ground = 1 / ground_depth(height, width)
    on_ground = np.isin(labels, [number[name] for name in GROUND])
    near[on_ground] = np.broadcast_to(ground[:, None], near.shape)[on_ground]
    things = np.isin(labels, [number[name] for name in THINGS])
    for name in (*WALLS, *THINGS):
        mask = labels == number[name]
        _, components, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        for i, (x, y, w, h, _) in enumerate(boxes[1:], start=1):
            inside = components[y : y + h, x : x + w] == i
            own = np.full(w, ground[y + h - 1])
            if name in WALLS:
                lowest = y + h - 1 - inside[::-1].argmax(axis=0)  # row of each column
                below = np.minimum(lowest + 1, height - 1), np.arange(x, x + w)
                own = _wall(ground[lowest], ~things[below], round(REACH * width))
            own = np.where(own > 0, own, np.nan)  # ends above the horizon
            near[y : y + h, x : x + w][inside] = np.broadcast_to(own, (h, w))[inside]
        known = mask & ~np.isnan(near)
        if known.any():
            near[mask] = fill_invalid(near, known, image, reach=0)[mask]
    near = fill_invalid(near, ~np.isnan(near), image)
    with np.errstate(divide="ignore"):
        depth = 1 / np.where(np.isnan(near), 0, near)  # without any label, all is sky
    return depth_to_distance(depth, width, width, (width - 1) / 2, HORIZON * height)


def ground_depth(height, width):
    """Depth of a flat road along the optical axis in each row, (H,) float64, metres; infinity above the horizon."""
    below = np.arange(height) - HORIZON * height
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.where(below > 0, CAMERA_HEIGHT * width / below, np.inf)
    return np.where(below > 0, np.minimum(depth, MAX_DEPTH), np.inf)


def _wall(near, known, reach):
    """1 / depth of a wall's columns, (N,): interpolated where not ``known``, then the largest within ``reach``."""
    if known.any():
        columns = np.arange(len(near))
        near = np.interp(columns, columns[known], near[known])
    padded = np.pad(near, reach)
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
