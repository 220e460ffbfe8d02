"""Criteria that need no labels. Each is a function of a detector's predictions on N images, seen in one or two ways.

A criterion has two parts. ``statistics`` gives a row for each image; ``value`` makes a number of the sum of rows. So
the value of any sub-set or resampling of the images needs no new pass of the detector.
"""

from dataclasses import dataclass
from typing import Callable

import numpy as np

from .predictions import best_pairs, pairwise_iou

SURE = 0.3  # least score of the boxes that criteria of single boxes look at
COUNTED = 0.5  # least score of the boxes that are counted against the source's true boxes
SAME = 0.5  # least IoU of two boxes that may be the same object
TEMPERATURE = 0.05  # of soft neighbourhood density, as published
MOST_NEIGHBOURS = 2000  # boxes that soft neighbourhood density compares at most


def agreement(first, second, num_classes):
    """How much two predictions agree, class by class and weighted by scores; no threshold of the score.

    Boxes of a class are paired one to one so that sum IoU min(s, s') is largest, over pairs with IoU >= 0.5.

    Returns:
        ndarray: (N, 2 K): for each class 2 sum IoU min(s, s') of the pairs, then sum s + sum s' of all boxes.
    """
    rows = np.zeros((len(first), 2, num_classes))
    for row, a, b in zip(rows, first, second):
        for c in np.union1d(a.classes, b.classes):
            x, y = a.of(a.classes == c), b.of(b.classes == c)
            iou = pairwise_iou(x.boxes, y.boxes)
            gain = np.where(iou >= SAME, iou * np.minimum(x.scores[:, None], y.scores[None]), 0)
            i, j = best_pairs(gain)
            row[:, c] = 2 * gain[i, j].sum(), x.scores.sum() + y.scores.sum()
    return rows.reshape(len(first), -1)


def mean_agreement(total):
    """Mean over classes, in [0, 1]. A class that neither predicts counts 0: the detector does not know it."""
    agreed, scores = total.reshape(2, -1)
    return float(np.mean(np.divide(agreed, scores, out=np.zeros_like(agreed), where=scores > 0)))


def drift(first, second):
    """KL divergence of class distributions, and 1 - IoU, of each sure box and its pair in another prediction.

    Boxes are paired by the best sum of IoUs, whatever their class. A box without a pair has 1 - IoU = 1.

    Returns:
        ndarray: (N, 2): the sum over boxes with a score >= 0.3, and their number.
    """
    rows = np.zeros((len(first), 2))
    for row, a, b in zip(rows, first, second):
        a = a.of(a.scores >= SURE)
        i, j, iou = _places(a, b)
        p, q = a.probs[i].clip(1e-8), b.probs[j].clip(1e-8)
        row[:] = len(a) - iou.sum() + (p * np.log(p / q)).sum(), len(a)
    return rows


def stability(first, second):
    """IoU of each sure box and its pair in another prediction; 0 where it has none: (N, 2), sum and number of boxes."""
    rows = np.zeros((len(first), 2))
    for row, a, b in zip(rows, first, second):
        a = a.of(a.scores >= SURE)
        row[:] = _places(a, b)[2].sum(), len(a)
    return rows


def _places(a, b):
    iou = pairwise_iou(a.boxes, b.boxes)
    i, j = best_pairs(iou)
    return i, j, iou[i, j]


def nms_consistency(predictions):
    """How much the boxes that NMS removed support the box that it kept, in place and in score.

    A removed box belongs to the kept one of its class with the largest IoU (>= 0.5). It counts
    IoU min(s, s') / max(s, s'). A kept box has the mean of its removed boxes, or 0 where there is none.

    Returns:
        ndarray: (N, 2): the sum over kept boxes with a score >= 0.3, and their number.
    """
    rows = np.zeros((len(predictions), 2))
    for row, kept in zip(rows, predictions):
        removed = kept.removed
        iou = pairwise_iou(removed.boxes, kept.boxes) * (removed.classes[:, None] == kept.classes[None])
        support, count = np.zeros(len(kept)), np.zeros(len(kept))
        if iou.size:
            owner = iou.argmax(axis=1)
            place = iou[np.arange(len(removed)), owner]
            s, t = removed.scores, kept.scores[owner]
            near = place >= SAME
            np.add.at(support, owner[near], (place * np.minimum(s, t) / np.maximum(s, t).clip(1e-8))[near])
            np.add.at(count, owner[near], 1)
        sure = kept.scores >= SURE
        row[:] = (support / count.clip(1))[sure].sum(), sure.sum()
    return rows


def entropy(predictions):
    """Entropy of the class distribution of each box, weighted by its score, in units of log(K + 1): (N, 2)."""
    rows = np.zeros((len(predictions), 2))
    for row, x in zip(rows, predictions):
        row[:] = (x.scores * _entropy(x.probs)).sum() / np.log(x.probs.shape[1]), x.scores.sum()
    return rows


def class_mass(predictions):
    """Of each image the sum of its boxes' foreground distributions, and of their entropies, weighted by scores.

    Returns:
        ndarray: (N, K + 2): the K classes, the entropies in nats, the scores.
    """
    rows = []
    for x in predictions:
        p = x.probs[:, :-1] / x.probs[:, :-1].sum(axis=1, keepdims=True).clip(1e-12)
        rows.append([*(x.scores[:, None] * p).sum(axis=0), (x.scores * _entropy(p)).sum(), x.scores.sum()])
    return np.array(rows)


def information(total):
    """H(mean distribution) - mean H(distribution), in [0, 1] of log K: sure of each box, and classes spread."""
    *mass, entropies, scores = total
    if scores <= 0:
        return 0.0
    return float((_entropy(np.array(mass) / scores) - entropies / scores) / np.log(max(2, len(mass))))


def neighbourhood_density(predictions):
    """Entropy of each sure box's similarity to all other sure boxes of all images (softmax, temperature 0.05): (N, 2).

    Similarity is the cosine of class distributions. A box whose neighbours are many and alike has a high entropy.
    """
    sure = [x.probs[x.scores >= SURE] for x in predictions]
    image = np.repeat(np.arange(len(sure)), [len(p) for p in sure])
    p = np.concatenate(sure)
    if len(p) > MOST_NEIGHBOURS:
        chosen = np.linspace(0, len(p) - 1, MOST_NEIGHBOURS).astype(int)
        p, image = p[chosen], image[chosen]
    rows = np.zeros((len(predictions), 2))
    if len(p) > 1:
        p = p / np.linalg.norm(p, axis=1, keepdims=True)
        logits = p @ p.T / TEMPERATURE
        np.fill_diagonal(logits, -np.inf)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.add.at(rows[:, 0], image, _entropy(weights / weights.sum(axis=1, keepdims=True)))
        np.add.at(rows[:, 1], image, 1)
    return rows


def _entropy(p):
    return -(p * np.log(np.maximum(p, 1e-12))).sum(axis=-1)


def box_counts(predictions, num_classes):
    """Boxes with a score >= 0.5 of each class, and 1 for the image: (N, K + 1)."""
    counts = [np.bincount(x.classes[x.scores >= COUNTED], minlength=num_classes) for x in predictions]
    return np.array([[*c, 1] for c in counts], float)


def count_distance(total, source):
    """Mean over classes of |log(a / b)|, a and b boxes an image of the target and of the source; both + 0.1.

    ``source`` has the true ``counts`` (K,) of the source, in boxes an image.
    """
    counts = total[:-1] / total[-1]
    return float(np.abs(np.log((counts + 0.1) / (source.counts + 0.1))).mean())


def class_features(predictions, num_classes):
    """Sum of the features of each class's sure boxes, and their number: (N, K (D + 1))."""
    size = predictions[0].features.shape[1]
    rows = np.zeros((len(predictions), num_classes, size + 1))
    for row, x in zip(rows, predictions):
        sure = x.scores >= SURE
        np.add.at(row[:, :-1], x.classes[sure], x.features[sure])
        np.add.at(row[:, -1], x.classes[sure], 1)
    return rows.reshape(len(predictions), -1)


def prototype_ratio(total, source):
    """Mean distance of a class's mean feature in source and target, by the mean distance of two classes in the source.

    ``source`` has the ``prototypes`` (K, D) of the source's true boxes, NaN where a class has none. A class without a
    sure box in the target counts as far away as the classes are from each other (1).
    """
    own = source.prototypes
    rows = total.reshape(len(own), -1)
    known = np.isfinite(own).all(axis=1)
    between = np.linalg.norm(own[known][:, None] - own[known][None], axis=2)
    apart = between.sum() / max(1, known.sum() * (known.sum() - 1))
    if apart <= 0:
        return float("nan")
    seen = rows[:, -1] > 0
    means = rows[:, :-1] / rows[:, -1:].clip(1)
    distances = np.where(seen, np.linalg.norm(means - np.nan_to_num(own), axis=1) / apart, 1.0)
    return float(distances[known].mean())


def mean_score(predictions):
    """Sum of scores and number of the boxes with a score >= 0.3: (N, 2)."""
    kept = [x.scores[x.scores >= SURE] for x in predictions]
    return np.array([[s.sum(), len(s)] for s in kept], float)


def mean(total):
    """Sum by number; NaN where there is nothing."""
    return float(total[0] / total[1]) if total[1] > 0 else float("nan")


@dataclass(frozen=True)
class Criterion:
    """One row of :data:`CRITERIA`.

    Attributes:
        paper (str): where it comes from.
        higher (bool): whether a higher value means a better detector.
        passes (float): passes of the detector over the target images, beside the one that all criteria share; of the
            source images where ``needs`` has "source".
        needs (tuple): views (see ``passes.py``) and "probs", "features", "removed", "source_counts", "source_features".
        statistics (callable): (views, num_classes) -> (N, k).
        value (callable): (total (k,), source) -> float.
    """

    paper: str
    higher: bool
    passes: float
    needs: tuple
    statistics: Callable
    value: Callable


def _agreement_with(view, paper, passes=1.0):
    return Criterion(
        paper, True, passes, (view,), lambda v, k: agreement(v["whole"], v[view], k), lambda t, s: mean_agreement(t)
    )


def _mean_of(function, paper, higher, passes, needs, *views):
    return Criterion(
        paper, higher, passes, needs, lambda v, k: function(*(v[x] for x in ("whole", *views))), lambda t, s: mean(t)
    )


DAS = "Yu et al., Towards Unsupervised Model Selection for Domain Adaptive Object Detection, NeurIPS 2024"
BOS = "Yang et al., Bounding Box Stability against Feature Dropout, ICLR 2024"
CRITERIA = {
    "flip_agreement": _agreement_with("flip", "common practice: consistency under a horizontal flip"),
    "mask_agreement": _agreement_with("masked", "ours: 30 % of the patches hidden, after MIC, CVPR 2023"),
    "student_agreement": _agreement_with("other", "common practice: teacher and student of a mean teacher"),
    "weight_noise": _mean_of(drift, f"flatness index of {DAS}", False, 1.0, ("noise", "probs"), "noise"),
    "dropout_stability": _mean_of(stability, BOS, True, 0.3, ("dropout",), "dropout"),
    "nms_consistency": _mean_of(
        nms_consistency, "a simple form of: Yoo et al., Automated Model Evaluation for Object Detection via Prediction "
        "Consistency and Reliability, ICCV 2025", True, 0.0, ("removed",),
    ),
    "prototype_ratio": Criterion(
        f"prototypical distance ratio of {DAS}", False, 1.0, ("features", "source_features"),
        lambda v, k: class_features(v["whole"], k), prototype_ratio,
    ),
    "entropy": _mean_of(entropy, "Morerio et al., Minimal-Entropy Correlation Alignment, ICLR 2018", False, 0.0,
                        ("probs",)),
    "information": Criterion(
        "information maximisation: Shi and Sha, ICML 2012; Liang et al. (SHOT), ICML 2020", True, 0.0, ("probs",),
        lambda v, k: class_mass(v["whole"]), lambda t, s: information(t),
    ),
    "neighbourhood_density": _mean_of(
        neighbourhood_density, "Saito et al., Tune it the Right Way (SND), ICCV 2021", True, 0.0, ("probs",)
    ),
    "count_distance": Criterion(
        "ours: pseudo-boxes an image and class against the source's true boxes", False, 0.0, ("source_counts",),
        lambda v, k: box_counts(v["whole"], k), count_distance,
    ),
    "mean_score": _mean_of(mean_score, "average confidence: Guillory et al., ICCV 2021", True, 0.0, ()),
}  # fmt: skip
