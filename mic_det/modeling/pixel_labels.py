"""Semantic segmentation beside or instead of boxes: pixel labels, the weighted loss, the teacher's labels.

MIC's segmentation path (Sec. 3.2, Eq. 6-9): the teacher's most probable class of each pixel is the label, and one
number an image, the share of pixels it is sure of, weights its loss.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .pseudo_labels import sem_seg_pseudo_labels


@dataclass
class SemSegSettings:
    """How pixel labels are made.

    ``threshold`` is tau. ``margins`` says whether target images must have ``"valid_pixels"``. ``ignore_top`` and
    ``ignore_bottom`` are their predecessors: strips in pixels of the student's view, whose labels have weight 0.
    """

    threshold: float = 0.968
    ignore_top: int = 0
    ignore_bottom: int = 0
    margins: bool = False


@dataclass
class PixelLabels:
    """Labels (H, W) int64 of one image and the weight (H, W) float of each pixel in the loss."""

    labels: torch.Tensor
    weights: torch.Tensor

    @staticmethod
    def of_truth(sem_seg):
        """True labels (H, W), fully trusted."""
        return PixelLabels(sem_seg, torch.ones(sem_seg.shape, device=sem_seg.device))


def pixel_loss(head, features, targets):
    """Weighted cross entropy of a segmentation head (MIC, Eq. 6 with the weight of Eq. 8).

    Args:
        head (nn.Module): the student's, a ``SemSegFPNHead`` or another with its attributes.
        features (dict): backbone features of N images.
        targets (list[PixelLabels]): N, without padding.

    Returns:
        Tensor: scalar; the mean over all pixels that have a label, times the head's loss weight. Padding and
        ignored pixels do not count; pixels of weight 0 count as right.
    """
    if hasattr(head, "pixel_loss"):  # a head whose loss is not that of one map of logits (HRDA)
        return head.pixel_loss(features, targets)
    logits = upsampled(head.layers(features).float(), head.common_stride)
    labels, weights = padded_labels(targets, logits.shape[-2:], head.ignore_value)
    return weighted_cross_entropy(logits, labels, weights, head.ignore_value) * head.loss_weight


def upsampled(x, factor):
    """(N, K, h, w) -> (N, K, factor h, factor w), bilinear."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False) if factor != 1 else x


def weighted_cross_entropy(logits, labels, weights, ignore_value):
    """Sum of the weighted cross entropy over the number of labelled pixels: logits (N, K, H, W), others (N, H, W)."""
    loss = F.cross_entropy(logits, labels, reduction="none", ignore_index=ignore_value)
    return (loss * weights).sum() / (labels != ignore_value).sum().clamp(min=1)


def zero_without_labels(head, args, output):
    """Forward hook of a ``SemSegFPNHead``: a batch without a labelled pixel counts 0, as in :func:`pixel_loss`.

    Detectron2 takes the mean over no pixel, which is NaN.
    """
    predictions, losses = output
    if losses:
        labelled = (args[1] != head.ignore_value).any()
        losses = {k: torch.where(labelled, v, torch.zeros_like(v)) for k, v in losses.items()}
    return predictions, losses


def padded_labels(targets, size, ignore_value):
    """Labels (N, H, W) and weights (N, H, W) in the frame of padded images; padding is ignored, with weight 0."""
    device = targets[0].labels.device
    labels = torch.full((len(targets), *size), ignore_value, dtype=torch.int64, device=device)
    weights = torch.zeros((len(targets), *size), device=device)
    for row, weight, target in zip(labels, weights, targets):
        h, w = target.labels.shape
        row[:h, :w] = target.labels
        weight[:h, :w] = target.weights
    return labels, weights


@torch.no_grad()
def teacher_pixel_labels(head, features, input_sizes, output_sizes, settings, valid=None, shares=None):
    """The teacher's label and weight of each pixel.

    Args:
        head (nn.Module): the teacher's, in eval mode.
        features (dict): its backbone's features of N whole target images.
        input_sizes, output_sizes (list[(int, int)]): height and width of each image as the teacher sees it,
            without padding, and as the student does.
        settings (SemSegSettings): tau and the strips that are ignored.
        valid (list[Tensor or None]): for each image (H, W) bool in the student's view, False where a pixel has
            weight 0; None = all count. It does not change q.
        shares (ClassShares): its offsets are added to the logits; None = none.

    Returns:
        (list[PixelLabels], list[Tensor], list[Tensor]): one entry an image; its quality q; and, with ``shares``, its
        mean probabilities (K,) without offsets.
    """
    logits, _ = head(features)
    found, qualities, means = [], [], []
    for x, (height, width), size, counted in zip(logits, input_sizes, output_sizes, valid or [None] * len(logits)):
        x = x[None, :, :height, :width]
        if (height, width) != tuple(size):
            x = F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False)
        if shares is not None:
            means.append(x[0].float().softmax(dim=0).mean(dim=(1, 2)))
            x = x.float() + shares.offsets()[:, None, None]
        labels, quality = sem_seg_pseudo_labels(x, settings.threshold)
        weights = quality.expand(labels[0].shape).clone()
        weights[: settings.ignore_top] = 0
        weights[max(0, weights.shape[0] - settings.ignore_bottom) :] = 0
        if counted is not None:
            weights *= counted.to(weights.device)
        found.append(PixelLabels(labels[0], weights))
        qualities.append(quality[0])
    return found, qualities, means
