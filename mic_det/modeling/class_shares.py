"""Pixel labels whose classes keep the shares that they have on the source."""

import torch

from .observations import Observations


class ClassShares(Observations):
    """Offsets of the teacher's logits, strength * log(p_S / p_T), which keep a class from taking the pixels of another.

    p_S is the share of a class among the labelled pixels of source images. p_T is the teacher's mean probability of the
    class on target images. Both are running averages over the steps of a training. The offsets correct the teacher's
    prior (Bayes' rule; in semi-supervised learning: distribution alignment, Berthelot et al., "ReMixMatch", ICLR 2020).
    A class without labelled pixels keeps an offset of 0. The offsets grow from 0 as the averages become reliable.

    The state dict has the averages.
    """

    LARGEST = 2.3  # of an offset: a factor of 10 between two probabilities

    def __init__(self, num_classes, strength=1.0, momentum=0.99, ignore_value=255):
        """
        Args:
            num_classes (int): K.
            strength (float): factor of the offsets, in (0, 1].
            momentum (float): weight of the previous averages at each step, in [0, 1).
            ignore_value (int): label of pixels that do not count.
        """
        super().__init__()
        self.strength, self.momentum, self.ignore_value = strength, momentum, ignore_value
        self.register_buffer("source", torch.zeros(num_classes))
        self.register_buffer("target", torch.zeros(num_classes))
        self.register_buffer("known", torch.zeros(()))  # weight of all observations in the averages, in [0, 1)

    def offsets(self):
        """Tensor (K,) that is added to the teacher's logits."""
        ratio = torch.log(self.source.clamp(min=1e-12) / self.target.clamp(min=1e-12))
        ratio = ratio.clamp(-self.LARGEST, self.LARGEST) * self.strength * self.known
        return torch.where(self.source > 0, ratio, torch.zeros_like(ratio))

    @torch.no_grad()
    def observe(self, target, labels):
        """Count one batch of the training. All processes of a training must call it together.

        Args:
            target (Tensor): (N, K), the teacher's mean probabilities of each target image, without offsets.
            labels (list[Tensor]): label maps (H, W) int64 of source images.
        """
        num_classes = len(self.source)
        # no operation here makes the host wait for the device
        counts = self.source.new_zeros(num_classes + 1)
        for x in labels:
            x = torch.where(x == self.ignore_value, torch.full_like(x, num_classes), x).flatten()
            counts.index_add_(0, x, torch.ones_like(x, dtype=counts.dtype))
        self.add(torch.cat([counts[:-1], target.float().sum(dim=0)]))

    def update(self, observed):
        for average, sums in zip((self.source, self.target), observed.split(len(self.source))):
            shares = sums / sums.sum().clamp(min=1e-12)
            # relative to the weight of what was observed so far, so that the averages are unbiased from the start
            average.lerp_(shares, (1 - self.momentum) / (1 - self.momentum * (1 - self.known)))
        self.known.copy_(1 - self.momentum * (1 - self.known))
