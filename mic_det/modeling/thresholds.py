"""Score thresholds of pseudo-boxes that follow the teacher, one per class."""

import torch

from .observations import Observations

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


class AdaptiveThresholds(Observations):
    """Thresholds with given start values that follow the teacher's scores, a little with each step.

    Each class gets the share of pseudo-boxes that it has among the source's true boxes. All classes together keep the
    number of detections above the start thresholds. The scores are in a decaying histogram: at each step, older
    detections are multiplied by ``momentum``. The state dict has the histogram and the thresholds.
    """

    def __init__(self, start, num_classes, bounds=(0.3, 0.9), momentum=0.99):
        """
        Args:
            start (float or sequence): start thresholds, one for all classes or one per class.
            num_classes (int): K.
            bounds ((float, float)): thresholds stay between these two.
            momentum (float): weight of the previous thresholds and scores at each step, in [0, 1).
        """
        super().__init__()
        self.start = torch.as_tensor(start, dtype=torch.float32).expand(num_classes).tolist()
        self.bounds, self.momentum = tuple(bounds), momentum
        self.register_buffer("values", torch.tensor(self.start))
        self.register_buffer("histogram", torch.zeros(num_classes, BINS))
        self.register_buffer("source_boxes", torch.zeros(num_classes))

    @torch.no_grad()
    def reset(self):
        """Set everything to the start values."""
        super().reset()
        self.values.copy_(torch.tensor(self.start))

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
        self.add(counts)

    def update(self, observed):
        num_classes = len(self.values)
        self.histogram.mul_(self.momentum).add_(observed[: num_classes * BINS].view(num_classes, BINS))
        self.source_boxes.add_(observed[num_classes * BINS :])
        self.values.lerp_(self._target(), 1 - self.momentum)

    def _target(self):
        """Targets of the thresholds. Without observations they stay as they are."""
        first = [round(x * BINS) for x in self.start]
        total = torch.stack([h[i:].sum() for h, i in zip(self.histogram, first)]).sum()
        true = self.source_boxes.sum()
        found = share_matching_thresholds(self.histogram, self.source_boxes / true.clamp(min=1), total)
        return torch.where((total > 0) & (true > 0), found.clamp(*self.bounds), self.values)
