"""AP50 of weighted images: COCO's number, from parts that resampling can use again."""

import numpy as np

from .predictions import pairwise_iou

RECALLS = np.linspace(0, 1, 101)
MOST = 100  # detections of an image and class that count


class MatchedBoxes:
    """Predictions of N images, matched once to the truth (IoU >= 0.5, as COCO does; no crowds)."""

    def __init__(self, predictions, boxes, classes, num_classes):
        """
        Args:
            predictions (list[BoxPredictions]), boxes (list of (M, 4)), classes (list of (M,)): N of each.
            num_classes (int): K.
        """
        self.truth = np.array([np.bincount(c, minlength=num_classes) for c in classes]).reshape(-1, num_classes)
        self.parts = []  # for each class: image, score and whether it is right, of all boxes, by descending score
        for k in range(num_classes):
            found = [_matched(p.of(p.classes == k), b[c == k]) for p, b, c in zip(predictions, boxes, classes)]
            image = np.repeat(np.arange(len(found)), [len(s) for s, _ in found])
            scores, right = (np.concatenate(x) if found else np.zeros(0) for x in zip(*found))
            order = np.argsort(-scores, kind="stable")
            self.parts.append((image[order], scores[order], right[order].astype(float)))

    def of_classes(self, weights=None):
        """AP50 of each class in per cent: (K,); NaN where the weighted images have no such object.

        Args:
            weights (ndarray): (N,) how often each image counts; None = once.
        """
        weights = np.ones(len(self.truth)) if weights is None else np.asarray(weights, float)
        return np.array([self._of(k, weights) for k in range(len(self.parts))])

    def __call__(self, weights=None):
        """Mean over the classes that there are; NaN where there is none."""
        values = self.of_classes(weights)
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def _of(self, k, weights):
        objects = (weights * self.truth[:, k]).sum()
        if not objects:
            return float("nan")
        image, _, right = self.parts[k]
        w = weights[image]
        hits, all_of_it = np.cumsum(w * right), np.cumsum(w)
        kept = w > 0
        recall, precision = hits[kept] / objects, hits[kept] / all_of_it[kept]
        best = np.maximum.accumulate(precision[::-1])[::-1]
        place = np.searchsorted(recall, RECALLS, side="left")
        return 100 * float(np.append(best, 0.0)[place].mean())


def _matched(found, truth):
    """Scores by descending order, and whether each box takes the free true box with the largest IoU >= 0.5."""
    order = np.argsort(-found.scores, kind="stable")[:MOST]
    iou = pairwise_iou(found.boxes[order], truth)
    free, right = np.ones(len(truth), bool), np.zeros(len(order), bool)
    for i, row in enumerate(iou):
        open_ones = np.where(free & (row >= 0.5), row, -1)
        if len(row) and open_ones.max() >= 0.5:
            # COCO takes the last of equal ones
            j = len(row) - 1 - int(open_ones[::-1].argmax())
            free[j], right[i] = False, True
    return found.scores[order], right
