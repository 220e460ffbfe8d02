"""Classifiers of the domain of an image's positions and of its regions, behind a gradient reversal.

Gradient reversal: Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015.
"""

import torch
from torch import nn


class _GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * -ctx.weight, None


def gradient_reversal(x, weight):
    """The identity, whose gradient is -``weight`` times the ordinary one."""
    return _GradientReversal.apply(x, float(weight))


class ImageClassifiers(nn.Module):
    """One domain classifier for each feature map: 1x1 convolution, ReLU, 1x1 convolution to a logit.

    Weights start as PyTorch's layers do. The published code starts both layers near 0 (standard deviation
    0.001), which takes long runs to leave.

    Args:
        channels (dict[str, int]): channels of each feature map, by name.
        hidden (int): channels between the two convolutions.
    """

    def __init__(self, channels, hidden=512):
        super().__init__()
        self.levels = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Conv2d(c, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 1, 1))
                for name, c in channels.items()
            }
        )

    def forward(self, features, reversal_weight):
        """Logits (N, 1, H, W) float32 by name, positive for the target, of features (N, C, H, W) by name."""
        return {name: self.levels[name](gradient_reversal(x, reversal_weight)).float() for name, x in features.items()}


class InstanceClassifiers(nn.Module):
    """One domain classifier for the regions of each level: FC, ReLU, dropout, twice, then FC to a logit.

    Args:
        num_levels (int): levels that the box pooler assigns regions to.
        size (int): length of a region's feature vector.
        hidden (int), dropout (float): of the two hidden layers.
    """

    def __init__(self, num_levels, size, hidden=1024, dropout=0.5):
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(dropout),
                nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout),
                nn.Linear(hidden, 1),
            )
            for _ in range(num_levels)
        )  # fmt: skip

    def forward(self, x, levels, reversal_weight):
        """Logits (R,) float32, positive for the target, of features (R, D) on ``levels`` (R,)."""
        x = gradient_reversal(x, reversal_weight)
        logits = torch.zeros(len(x), device=x.device)
        for level, classifier in enumerate(self.levels):
            # a level without regions takes part too: no parameter is ever without a gradient
            rows = (levels == level).nonzero().squeeze(1)
            logits = logits.index_put((rows,), classifier(x[rows]).squeeze(1).float())
        return logits
