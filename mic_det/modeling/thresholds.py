"""Score thresholds of pseudo-boxes that follow the teacher, one per class."""

import torch
from detectron2.utils import comm
from torch import nn

BINS = 1000  # of the histogram of scores in [0, 1]


def share_matching_thresholds(histogram, shares, total):
    """Thresholds above which each class has its share of ``total`` detections: quantiles of its scores.

    Args:
        histogram (Tensor): (K, B), number of detections of each class by score, in B equal bins of [0, 1].
        shares (Tensor): (K,), share of each class; the sum is 1.
        total (Tensor): number of detections of all classes together.

    Returns:
        Tensor: (K,), the highest lower edge of a bin above which the class has enough detections; 0 without one.
    """
    above = histogram.flip(1).cumsum(1).flip(1)
    enough = above >= (shares * total)[:, None] * (1 - 1e-5)  # sums of a decayed histogram are rounded
    return (enough.sum(dim=1) - 1).clamp(min=0) / histogram.shape[1]


def mean_scores(histogram, least):
    """The mean score (K,) of each class's detections with a score of at least ``least``; NaN where there is none."""
    bins = histogram.shape[1]
    histogram = histogram[:, round(least * bins) :]
    middles = (torch.arange(bins, device=histogram.device)[-histogram.shape[1] :] + 0.5) / bins
    return (histogram * middles).sum(dim=1) / histogram.sum(dim=1)


class AdaptiveThresholds(nn.Module):
    """Thresholds with given start values that follow the teacher's scores, a little with each step.

    Two rules give their targets:

    - ``class_shares``: each class gets the share of pseudo-boxes that it has among the source's true boxes. All classes
      together keep the number of detections above the start thresholds.
    - ``running_mean``: the mean score of the class's detections above the lower bound.

    The rules use a decaying histogram of scores: at each step, older detections are multiplied by ``momentum``. The
    state dict has the histogram and the thresholds. All processes have the same ones, because their detections are
    summed. Observations take effect at :meth:`step`, after the optimizer's step. So a failed step changes nothing.
    """

    def __init__(self, start, rule, num_classes, bounds=(0.3, 0.9), momentum=0.99):
        """
        Args:
            start (float or sequence): start thresholds, one for all classes or one per class.
            rule (str): "class_shares" or "running_mean".
            num_classes (int): K.
            bounds ((float, float)): thresholds stay between these two.
            momentum (float): weight of the previous thresholds and scores at each step, in [0, 1).
        """
        super().__init__()
        if rule not in ("class_shares", "running_mean"):
            raise ValueError(f"rule is {rule!r}: use 'class_shares' or 'running_mean'")
        self.start = torch.as_tensor(start, dtype=torch.float32).expand(num_classes).tolist()
        self.rule, self.bounds, self.momentum = rule, tuple(bounds), momentum
        self.register_buffer("values", torch.tensor(self.start))
        self.register_buffer("histogram", torch.zeros(num_classes, BINS))
        self.register_buffer("source_boxes", torch.zeros(num_classes))
        self._observed = None  # counts since the last step

    @torch.no_grad()
    def reset(self):
        """Set everything to the start values."""
        self.values.copy_(torch.tensor(self.start))
        self.histogram.zero_()
        self.source_boxes.zero_()
        self._observed = None

    @torch.no_grad()
    def observe(self, scores, classes, true_classes):
        """Count one batch of the training. All processes of a training must call it together.

        Args:
            scores, classes (Tensor): (M,), of all detections of the teacher in the batch's target images.
            true_classes (Tensor): (T,), classes of the true boxes in its source images.
        """
        num_classes = len(self.values)
        # no operation here makes the host wait for the device
        counts = self.histogram.new_zeros(num_classes * (BINS + 1))
        bins = (scores.float() * BINS).long().clamp(0, BINS - 1)
        counts.index_add_(0, classes * BINS + bins, torch.ones_like(scores, dtype=counts.dtype))
        counts.index_add_(0, num_classes * BINS + true_classes, torch.ones_like(true_classes, dtype=counts.dtype))
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(counts)
        self._observed = counts if self._observed is None else self._observed + counts

    @torch.no_grad()
    def step(self):
        """Update the thresholds with the observations since the last step, if there are any."""
        counts, self._observed = self._observed, None
        if counts is None:
            return
        num_classes = len(self.values)
        self.histogram.mul_(self.momentum).add_(counts[: num_classes * BINS].view(num_classes, BINS))
        self.source_boxes.add_(counts[num_classes * BINS :])
        self.values.lerp_(self._target(), 1 - self.momentum)

    def _target(self):
        """Targets of the thresholds. Classes without observations keep their thresholds."""
        if self.rule == "running_mean":
            found = mean_scores(self.histogram, self.bounds[0])
            known = found.isfinite()
        else:
            first = [round(x * BINS) for x in self.start]
            total = torch.stack([h[i:].sum() for h, i in zip(self.histogram, first)]).sum()
            true = self.source_boxes.sum()
            found = share_matching_thresholds(self.histogram, self.source_boxes / true.clamp(min=1), total)
            known = (total > 0) & (true > 0)
        return torch.where(known, found.clamp(*self.bounds), self.values)
