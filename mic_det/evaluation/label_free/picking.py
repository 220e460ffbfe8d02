"""Which target images are most worth a label: those on which views disagree, and which differ from each other.

Disagreement is the usual measure of active learning for detectors (Elezi et al., "Not All Labels Are Equal", CVPR
2022). Coverage is the greedy k-centre rule (Sener and Savarese, "A Core-Set Approach", ICLR 2018).
"""

import numpy as np

from .criteria import agreement


def disagreement(views, num_classes):
    """Of each image the sum of scores that other views of it do not confirm, mean over the views: (N,).

    For two predictions it is (sum s + sum s') / 2 - sum IoU min(s, s') of their pairs, so images with many doubtful
    objects have a high one.

    Args:
        views (dict): of ``passes.look``; all views beside "whole" count.
    """
    others = [v for name, v in sorted(views.items()) if name != "whole"]
    rows = [agreement(views["whole"], v, num_classes).reshape(-1, 2, num_classes).sum(axis=2) for v in others]
    return np.mean([(r[:, 1] - r[:, 0]) / 2 for r in rows], axis=0)


def descriptors(predictions):
    """A vector of length 1 for each image, the mean of its boxes' features weighted by scores; 0 without boxes: (N, D).

    Of a detector that gives no features: None.
    """
    if any(x.features is None for x in predictions):
        return None
    rows = np.array([(x.scores[:, None] * x.features).sum(axis=0) for x in predictions])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)


def pick(doubt, vectors, count):
    """Choose images one after the other, each with the largest (share of images with less doubt) x (distance).

    The distance is that to the nearest image that was chosen before. Without vectors, the doubt alone decides.

    Args:
        doubt (ndarray): (N,); vectors (ndarray): (N, D) or None; count (int): at most N are chosen.

    Returns:
        list[int]: in the order of their worth.
    """
    doubt = np.asarray(doubt, float)
    share = np.array([(doubt <= x).mean() for x in doubt])
    nearest, chosen = np.ones(len(doubt)), []
    for _ in range(min(count, len(doubt))):
        worth = share * nearest
        worth[chosen] = -1
        best = int(worth.argmax())
        chosen.append(best)
        if vectors is not None:
            distance = np.linalg.norm(vectors - vectors[best], axis=1)
            nearest = distance if len(chosen) == 1 else np.minimum(nearest, distance)
    return chosen
