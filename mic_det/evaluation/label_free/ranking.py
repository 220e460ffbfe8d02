"""Which of several checkpoints to ship: a combination of criteria, fixed beforehand, and how sure the choice is."""

import math
from dataclasses import dataclass

import numpy as np

from .criteria import CRITERIA

# Weights of the combination, chosen by `mic-det judge-criteria` on the miniature city of generator seed 7, never on
# what is reported. It needs two passes beside the usual one, and no source images.
COMBINATION = {"flip_agreement": 1.0, "mask_agreement": 1.0, "nms_consistency": 1.0, "information": 1.0}
RESAMPLES = 300  # of the images


def goodness(name, value):
    """A criterion's value as a number in [0, 1] where 1 is good; 0 where it is undefined (no box at all)."""
    if not math.isfinite(value):
        return 0.0
    return value if CRITERIA[name].higher else math.exp(-value)


def combined(values, combination=None):
    """The score of a checkpoint: the weighted mean of the goodness of the combination's criteria.

    Criteria that were not measured (another kind of detector, no source) are left out.

    Returns:
        float: NaN where none of them was measured.
    """
    weights = COMBINATION if combination is None else combination
    used = {k: w for k, w in weights.items() if k in values}
    if not used:
        return float("nan")
    return sum(w * goodness(k, values[k]) for k, w in used.items()) / sum(used.values())


def resampled_scores(measured, combination=None, resamples=RESAMPLES, seed=0):
    """Scores (B,) of one checkpoint on B resamplings of its images, the same for all checkpoints."""
    names = [k for k in (COMBINATION if combination is None else combination) if k in measured.statistics]
    count = len(measured)
    weights = np.random.default_rng(seed).multinomial(count, [1 / count] * count, resamples)
    totals = {name: weights @ measured.statistics[name] for name in names}
    rows = ({name: measured.value(name, totals[name][b]) for name in names} for b in range(resamples))
    return np.array([combined(row, combination) for row in rows])


@dataclass
class Choice:
    """The best of several checkpoints.

    Attributes:
        order (list[int]): indices, the best first.
        best (int): order[0].
        sure (float): share of resamplings of the images in which it is the best.
        above_start (float): share in which it is better than the best start; None without a start, or where it is one.
        start_is_best (bool): whether the best adapted checkpoint looks worse than the start.
    """

    order: list
    best: int
    sure: float
    above_start: float
    start_is_best: bool


def choose(scores, resampled, is_start):
    """Choose by score.

    Args:
        scores (sequence of float): one a checkpoint; NaN is the worst.
        resampled (ndarray): (checkpoints, B), of :func:`resampled_scores`.
        is_start (sequence of bool): whether a checkpoint is one that an adaptation began with.
    """
    scores = np.nan_to_num(np.asarray(scores, float), nan=-np.inf)
    resampled = np.nan_to_num(np.asarray(resampled, float), nan=-np.inf)
    order = np.argsort(-scores, kind="stable").tolist()
    best, starts = order[0], [i for i, x in enumerate(is_start) if x]
    sure = float((resampled.argmax(axis=0) == best).mean())
    above = None
    if starts and best not in starts:
        above = float((resampled[best] > resampled[starts].max(axis=0)).mean())
    return Choice(order, best, sure, above, bool(starts) and best in starts and len(starts) < len(scores))
