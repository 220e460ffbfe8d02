"""Score thresholds of pseudo-boxes, one a class, that follow the teacher."""

import torch
from detectron2.utils import comm
from torch import nn

BINS = 1000  # of scores in [0, 1]


def share_matching_thresholds(histogram, shares, total):
    """Thresholds over which each class has its share of ``total`` detections: quantiles of its scores.

    Args:
        histogram (Tensor): (K, B), the number of detections of each class by score, in B equal bins of [0, 1].
        shares (Tensor): (K,), of each class, with the sum 1.
        total (Tensor): how many detections all classes shall have together.

    Returns:
        Tensor: (K,), the highest lower edge of a bin over which there are enough of the class; 0 where there never are.
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
    """Thresholds that begin as they are given and follow the teacher's scores, a little with each step.

    Two rules say where to:

    - ``class_shares``: each class gets the share of pseudo-boxes that it has among the source's true boxes. All classes
      together keep the number of detections over the thresholds of the start.
    - ``running_mean``: the mean score of the class's detections over the lower bound.

    What the rules know of scores is a histogram that forgets: each step's detections count ``momentum`` times less at
    the next one. All of it is in the state dict, and the same in all processes, whose detections are added up. What was
    observed counts from :meth:`step` on, which follows the optimizer's: a step that fails leaves no trace.
    """

    def __init__(self, start, rule, num_classes, bounds=(0.3, 0.9), momentum=0.99):
        """
        Args:
            start (float or sequence): thresholds at the start, one for all or one a class.
            rule (str): "class_shares" or "running_mean".
            num_classes (int): K.
            bounds ((float, float)): thresholds stay between these two.
            momentum (float): weight of the past at each step, of thresholds and of scores, in [0, 1).
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
        """As at the start."""
        self.values.copy_(torch.tensor(self.start))
        self.histogram.zero_()
        self.source_boxes.zero_()
        self._observed = None

    @torch.no_grad()
    def observe(self, scores, classes, true_classes):
        """Count one batch of the training. All processes of a training must call it together.

        Args:
            scores, classes (Tensor): (M,), of the teacher's detections in the batch's target images, with all scores.
            true_classes (Tensor): (T,), of the true boxes in its source images.
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
        """Move by what was observed since the last step, if anything."""
        counts, self._observed = self._observed, None
        if counts is None:
            return
        num_classes = len(self.values)
        self.histogram.mul_(self.momentum).add_(counts[: num_classes * BINS].view(num_classes, BINS))
        self.source_boxes.add_(counts[num_classes * BINS :])
        self.values.lerp_(self._target(), 1 - self.momentum)

    def _target(self):
        """Where the thresholds move to; where they are, of classes of which nothing is known."""
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
