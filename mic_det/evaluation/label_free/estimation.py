"""AP50 without labels: a regression from criteria to AP50 over a meta-set, its interval, and what a few labels add.

The meta-set are corrupted copies of labelled source images (Deng and Zheng, "Are Labels Always Necessary for Classifier
Accuracy Evaluation?", CVPR 2021). The half-width of the interval is a quantile of the errors on corruptions of kinds
that were left out (as in the jackknife+, Barber et al., 2021), and what the target's images vary. With k labelled
target images: prediction-powered inference (Angelopoulos et al., Science 2023) by the bootstrap (Zrnic, 2024).
"""

import math
from dataclasses import dataclass, field

import numpy as np

LEVEL = 0.9  # of the intervals
NORMAL = 1.645  # its quantile of the normal distribution, both sides
RIDGE = 0.3  # penalty, in units of the number of sets; features have unit variance
MARGIN = 0.15  # of a feature's range over the meta-set, by which a target may be outside of it


class Regression:
    """Ridge regression from features (n, f) to values (n,), both standardised."""

    def __init__(self, features, values, ridge=RIDGE):
        features, values = np.asarray(features, float), np.asarray(values, float)
        self.mean, self.scale = features.mean(axis=0), features.std(axis=0)
        self.scale = np.where(self.scale > 1e-9, self.scale, 1.0)
        x = (features - self.mean) / self.scale
        self.offset = values.mean()
        gram = x.T @ x + ridge * np.eye(x.shape[1])
        self.weights = np.linalg.solve(gram, x.T @ (values - self.offset))

    def __call__(self, features):
        """Values (...,) of features (..., f), within [0, 100]."""
        x = (np.asarray(features, float) - self.mean) / self.scale
        return np.clip(x @ self.weights + self.offset, 0, 100)


def left_out_errors(features, values, kinds, ridge=RIDGE):
    """|error| on each set of a regression over the sets of the other kinds: (n,)."""
    features, values, kinds = np.asarray(features, float), np.asarray(values, float), np.asarray(kinds)
    errors = np.zeros(len(values))
    for kind in np.unique(kinds):
        own = kinds == kind
        errors[own] = np.abs(Regression(features[~own], values[~own], ridge)(features[own]) - values[own])
    return errors


def conformal_quantile(errors, level=LEVEL):
    """The ceil((n + 1) level)-th smallest error; the largest where there are too few."""
    errors = np.sort(errors)
    return float(errors[min(len(errors), math.ceil((len(errors) + 1) * level)) - 1])


def outside(features, meta, names, margin=MARGIN):
    """Names of the features of a target that lie outside of the meta-set's range, widened by a share of it."""
    meta = np.asarray(meta, float)
    low, high = meta.min(axis=0), meta.max(axis=0)
    room = margin * (high - low) + 1e-9
    return [n for n, x, a, b, r in zip(names, features, low, high, room) if not a - r <= x <= b + r]


@dataclass
class Estimate:
    """AP50 in per cent with the interval [low, high]; ``outside`` names features that the meta-set does not cover."""

    value: float
    low: float
    high: float
    outside: list = field(default_factory=list)

    @property
    def deviation(self):
        """Half of the interval as a standard deviation of a normal distribution, before it is cut to [0, 100]."""
        return max(self.high - self.value, self.value - self.low, 1e-6) / NORMAL


def estimate(meta_features, meta_values, kinds, target_features, resampled, names):
    """AP50 of a target from its features.

    Args:
        meta_features (n, f), meta_values (n,), kinds (n,): of the meta-set; sets whose value is NaN are left out.
        target_features (f,): of all target images.
        resampled (ndarray): (B, f) of resamplings of the target images.
        names (sequence of str): of the features.

    Returns:
        (Estimate, Regression): or (None, None) where fewer than 8 sets of 3 kinds have a value.
    """
    meta_features, meta_values, kinds = np.asarray(meta_features), np.asarray(meta_values, float), np.asarray(kinds)
    known = np.isfinite(meta_values)
    if known.sum() < 8 or len(set(kinds[known])) < 3:
        return None, None
    x, y = meta_features[known], meta_values[known]
    regression = Regression(x, y)
    error = conformal_quantile(left_out_errors(x, y, kinds[known]))
    half = math.hypot(error, NORMAL * float(np.std(regression(resampled))))
    value = float(regression(target_features))
    interval = max(0.0, value - half), min(100.0, value + half)
    return Estimate(value, *interval, outside(target_features, x, names)), regression


def prediction_powered(truth, on_labelled, on_target):
    """AP50 of the target from k labelled images and what a regression says of these and of all target images.

    theta = AP(labelled) + lambda (f(target) - f(labelled)), with the lambda of the least variance.

    Args:
        truth, on_labelled: (value, resamplings (B,)) of AP50 by labels and by the regression, of the labelled images,
            resampled together.
        on_target: (value, resamplings (B,)) by the regression, of all target images.

    Returns:
        (Estimate, float): and lambda.
    """
    (ap, ap_b), (near, near_b), (far, far_b) = truth, on_labelled, on_target
    good = np.isfinite(ap_b)
    ap_b, near_b, far_b = ap_b[good], near_b[good], far_b[good]
    spread = near_b.var() + far_b.var()
    weight = float(np.clip(np.cov(ap_b, near_b, bias=True)[0, 1] / spread, 0, 1)) if spread > 1e-9 else 0.0
    value = ap + weight * (far - near)
    half = NORMAL * float((ap_b + weight * (far_b - near_b)).std())
    return Estimate(float(np.clip(value, 0, 100)), max(0.0, value - half), min(100.0, value + half)), weight


def pooled(first, second):
    """Two independent estimates as one, weighted by the inverse of their variances."""
    a, b = 1 / first.deviation**2, 1 / second.deviation**2
    value, half = (a * first.value + b * second.value) / (a + b), NORMAL / math.sqrt(a + b)
    return Estimate(value, max(0.0, value - half), min(100.0, value + half), first.outside)
