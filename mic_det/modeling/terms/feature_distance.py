"""The thing-class ImageNet feature distance (DAFormer, Hoyer et al., CVPR 2022, Sec. 3.3)."""

import copy

import torch
import torch.nn.functional as F

from ..encoder import innermost
from ..hrda import DETAIL, HRDABackbone, covers
from ..pixel_labels import padded_labels
from .base import Term


class FeatureDistance(Term):
    """L_FD: the student's encoder stays near a frozen one with ImageNet weights, where source images show things.

    The frozen encoder is no part of the model: neither its checkpoints nor DistributedDataParallel know it. Who builds
    the model gives it its weights (:func:`mic_det.checkpoint.reference.load_reference` reads them from a file).
    """

    name = "feature_distance"

    def __init__(
        self, backbone, weight=0.005, classes=(6, 7, 11, 12, 13, 14, 15, 16, 17, 18), min_ratio=0.75, filled=False
    ):
        """
        Args:
            backbone (Backbone): an encoder like the student's, without its FPN; it is frozen.
            weight (float): lambda_FD.
            classes (sequence of int): labels of things.
            min_ratio (float): least share of a label patch's pixels that must be of one class.
            filled (bool): whether the encoder has its ImageNet weights already.
        """
        self.reference = backbone.requires_grad_(False).eval()
        self.weight, self.classes, self.min_ratio = weight, tuple(classes), min_ratio
        self.filled = filled
        self.feature = max(backbone.output_shape().items(), key=lambda x: x[1].stride)[0]  # the last stage

    @classmethod
    def from_config(cls, cfg, student):
        """None where ``MODEL.MIC.FEATURE_DISTANCE.WEIGHT`` is 0."""
        keys = cfg.MODEL.MIC.FEATURE_DISTANCE
        if not keys.WEIGHT:
            return None
        _, encoder = innermost(student.backbone)
        return cls(copy.deepcopy(encoder), keys.WEIGHT, keys.CLASSES, keys.MIN_RATIO)

    def views(self, step):
        return ("source",)

    def losses(self, model, views, step):
        if not self.filled:
            raise RuntimeError(
                "the frozen encoder of MODEL.MIC.FEATURE_DISTANCE has no ImageNet weights: MICTrainer loads them; "
                "elsewhere call mic_det.checkpoint.reference.load_reference(cfg, model)."
            )
        view, head = views["source"], model.student.sem_seg_head
        images = view.images.tensor
        labels, _ = padded_labels(step.truth["pixels"], images.shape[-2:], head.ignore_value)
        scales = self._scales(model.student.backbone, images, view.features)
        total = sum(self._distance(seen, features, labels, head) for seen, features in scales)
        return {"source/loss_feature_distance": total * self.weight}

    def _scales(self, backbone, images, features):
        """Images as the student's encoder sees them, and its features of them; one or two pairs.

        Of HRDA it is the context, and both scales where the detail is the whole image too. An FPN keeps the features
        of its encoder to itself: they cost another pass.
        """
        two = isinstance(backbone, HRDABackbone)
        seen, own = backbone.context(images) if two else images, features.get(self.feature)
        if own is None:
            return [(seen, innermost(backbone)[1](seen)[self.feature])]
        if two:
            detail, whole = features[DETAIL + self.feature], [x * backbone.context_scale for x in own.shape[-2:]]
            return [(seen, own)] + ([(images, detail[:, 0])] if covers(detail, whole) else [])
        return [(seen, own)]

    def _distance(self, images, features, labels, head):
        """L_FD of the features of images, with labels at their size or a multiple of it."""
        if next(self.reference.parameters()).device != images.device:
            self.reference.to(images.device)
        with torch.no_grad():
            reference = self.reference(images)[self.feature]
        things = thing_positions(
            labels, features.shape[-2:], self.classes, self.min_ratio, head.predictor.out_channels, head.ignore_value
        )
        return feature_distance(features, reference, things)


def feature_distance(features, reference, positions):
    """Mean of the Euclidean distance of two feature maps over some positions; 0 where there are none.

    Args:
        features, reference (Tensor): (N, C, h, w).
        positions (Tensor): (N, h, w) bool.
    """
    distance = torch.linalg.vector_norm(features.float() - reference.float(), dim=1)
    # not the mean over an empty selection, which is NaN; every process has the term, with or without positions
    return (distance * positions).sum() / positions.sum().clamp(min=1)


def thing_positions(labels, size, classes, min_ratio, num_classes, ignore_value=255):
    """Positions of a feature map whose label patch is mostly one class, and that class is a thing.

    Args:
        labels (Tensor): (N, H, W) int64 labels of padded images; ignored pixels are a class of their own.
        size ((int, int)): h, w of the feature map; a patch has H / h x W / w pixels.
        classes (sequence of int): labels of things.
        min_ratio (float): least share of the patch's pixels that are of the class.
        num_classes (int), ignore_value (int): of the labels.

    Returns:
        Tensor: (N, h, w) bool.
    """
    height, width = (full // small for full, small in zip(labels.shape[-2:], size))
    labels = torch.where(labels == ignore_value, num_classes, labels)
    shares = F.avg_pool2d(F.one_hot(labels, num_classes + 1).movedim(-1, 1).float(), (height, width))
    share, label = shares.max(dim=1)
    wanted = torch.tensor(classes, device=labels.device)
    return torch.isin(label, wanted) & (share >= min_ratio)
