"""What a detector predicts on one image, as arrays, and pairs of two detectors' boxes."""

from dataclasses import dataclass
from typing import Optional

import numpy as np


@dataclass
class BoxPredictions:
    """N boxes after NMS, in pixels of the model's input image.

    Attributes:
        boxes (ndarray): (N, 4) XYXY.
        scores, classes (ndarray): (N,) of each.
        probs (ndarray): (N, K + 1), the whole distribution over classes, background last; None where a detector does
            not give it (RetinaNet, FCOS).
        features (ndarray): (N, D) of the box head; None likewise.
        removed (BoxPredictions): the boxes that NMS has removed; None likewise.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    probs: Optional[np.ndarray] = None
    features: Optional[np.ndarray] = None
    removed: Optional["BoxPredictions"] = None

    def __len__(self):
        return len(self.boxes)

    def of(self, chosen):
        """The boxes of an index or mask, without ``removed``."""
        rest = (None if x is None else x[chosen] for x in (self.probs, self.features))
        return BoxPredictions(self.boxes[chosen], self.scores[chosen], self.classes[chosen], *rest)


def pairwise_iou(first, second):
    """IoU of each of N boxes with each of M: (N, M). Boxes without area have the IoU 0."""
    first, second = np.asarray(first, float).reshape(-1, 4), np.asarray(second, float).reshape(-1, 4)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clip(min=0).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2]).clip(min=0).prod(axis=1) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def best_pairs(gain):
    """The one-to-one assignment of rows to columns with the largest sum of gains (Hungarian method).

    Args:
        gain (ndarray): (N, M), at least 0.

    Returns:
        (ndarray, ndarray): rows and columns of the pairs; pairs that gain nothing are left out.
    """
    gain = np.asarray(gain, float)
    rows, columns = gain.any(axis=1).nonzero()[0], gain.any(axis=0).nonzero()[0]
    if not len(rows):
        return rows, columns[:0]
    inner = gain[np.ix_(rows, columns)]
    if len(rows) > len(columns):
        j, i = _assignment(-inner.T)
    else:
        i, j = _assignment(-inner)
    kept = inner[i, j] > 0
    return rows[i[kept]], columns[j[kept]]


def _assignment(cost):
    """The cheapest assignment of all N rows to M >= N columns, by shortest augmenting paths; O(N^2 M)."""
    n, m = cost.shape
    # column 0 and row 0 stand for "none"; the potentials keep all reduced costs at 0 or above
    row_potential, column_potential = np.zeros(n + 1), np.zeros(m + 1)
    row_of = np.zeros(m + 1, int)
    for row in range(1, n + 1):
        row_of[0], column = row, 0
        distance, previous = np.full(m + 1, np.inf), np.zeros(m + 1, int)
        done = np.zeros(m + 1, bool)
        while row_of[column]:
            done[column] = True
            r = row_of[column]
            reduced = cost[r - 1] - row_potential[r] - column_potential[1:]
            closer = ~done[1:] & (reduced < distance[1:])
            distance[1:][closer], previous[1:][closer] = reduced[closer], column
            reach = np.where(done, np.inf, distance)
            reach[0] = np.inf
            following = int(reach.argmin())
            step = distance[following]
            row_potential[row_of[done]] += step
            column_potential[done] -= step
            distance[1:][~done[1:]] -= step
            column = following
        while column:
            row_of[column] = row_of[previous[column]]
            column = previous[column]
    columns = row_of[1:].nonzero()[0]
    return row_of[1:][columns] - 1, columns
