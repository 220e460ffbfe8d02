"""HRDA: context at a lower resolution, and detail in full, fused by an attention (Hoyer et al., ECCV 2022).

Both scales share one backbone and one head, which can be any of those that segment at one scale. :class:`HRDABackbone`
gives the features of both, and :class:`HRDAHead` fuses what is predicted from them, so that other code sees one
backbone and one head.
"""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.meta_arch.semantic_seg import SEM_SEG_HEADS_REGISTRY
from torch import nn

from .pixel_labels import PixelLabels, padded_labels, upsampled, weighted_cross_entropy
from .windows import cut, place, window_boxes

DETAIL = "detail_"  # begins the names of the detail windows' features
BOXES = "boxes_of_detail"


class HRDABackbone(Backbone):
    """A backbone that sees images at a lower resolution, and windows of them in full.

    The features of the context have the names that ``bottom_up`` gives them. Those of W windows of each image are
    (N, W, C, h, w) below ``detail_NAME``; ``boxes_of_detail`` (N, W, 4) int64 on the CPU says where in the image they
    are: y1, x1, y2, x2. In training there is one window at a random place; else they cover the image.
    """

    def __init__(self, bottom_up, context_scale=2, detail_size=(512, 512), overlap=True, alignment=8):
        """
        Args:
            bottom_up (Backbone): of one scale.
            context_scale (int): how many times smaller the context is.
            detail_size ((int, int)): height and width of a window in pixels.
            overlap (bool): whether windows that cover an image overlap by half.
            alignment (int): windows begin at multiples of this number of pixels, so that logits of both scales meet.
        """
        super().__init__()
        self.bottom_up, self.context_scale, self.overlap = bottom_up, context_scale, overlap
        self.detail_size, self.alignment = tuple(detail_size), alignment

    def context(self, images):
        """(N, 3, H, W) -> (N, 3, H / context_scale, W / context_scale)."""
        if self.context_scale == 1:
            return images
        return F.interpolate(images, scale_factor=1 / self.context_scale, mode="bilinear", align_corners=False)

    def forward(self, images):
        """(N, 3, H, W) normalised images -> dict of the features of both scales."""
        boxes = self.boxes(len(images), images.shape[-2:])
        features = self.bottom_up(self.context(images))
        detail = self.bottom_up(cut(images, boxes).flatten(0, 1))
        windows = {DETAIL + name: x.unflatten(0, boxes.shape[:2]) for name, x in detail.items()}
        return {**features, **windows, BOXES: boxes}

    def boxes(self, count, size):
        """The windows of N images of one size, (N, W, 4): a random one of each in training, else all."""
        height, width = (min(a, b) for a, b in zip(self.detail_size, size))
        if not self.training:
            step = [max(x // 2 // self.alignment * self.alignment, 1) if self.overlap else x for x in (height, width)]
            return torch.tensor(window_boxes(size, (height, width), step)).expand(count, -1, -1)
        # one pair of draws an image, so that images that go through alone draw the same
        corners = [[_draw((a - b) // self.alignment) for a, b in zip(size, (height, width))] for _ in range(count)]
        corners = torch.tensor(corners).view(count, 2) * self.alignment
        return torch.cat([corners, corners + torch.tensor([height, width])], dim=1)[:, None]

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Of one scale, for the head of one scale."""
        return self.bottom_up.output_shape()

    @property
    def size_divisibility(self):
        return (self.bottom_up.size_divisibility or 32) * self.context_scale


def _draw(most):
    return int(torch.randint(most + 1, ()))


@BACKBONE_REGISTRY.register()
def build_hrda_backbone(cfg, input_shape):
    """:class:`HRDABackbone` around ``MODEL.HRDA.BACKBONE``."""
    keys = cfg.MODEL.HRDA
    return HRDABackbone(
        BACKBONE_REGISTRY.get(keys.BACKBONE)(cfg, input_shape),
        keys.CONTEXT_SCALE,
        keys.DETAIL_SIZE,
        keys.OVERLAP,
        keys.CONTEXT_SCALE * cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE,
    )


@SEM_SEG_HEADS_REGISTRY.register()
class HRDAHead(nn.Module):
    """A head of one scale for both, and an attention that says where the detail is to be trusted.

    It has what other code asks of a head: ``layers``, ``predictor``, ``common_stride``, ``ignore_value`` and
    ``loss_weight``; and ``pixel_loss``, as its loss is not that of its fused logits alone.
    """

    @configurable
    def __init__(self, *, head, scale_attention, context_scale=2, detail_weight=0.1):
        """
        Args:
            head (nn.Module): of one scale, with ``layers`` and the other attributes.
            scale_attention (nn.Module): a head whose outputs are one map of attention, or one a class.
            context_scale (int): how many times smaller the context is.
            detail_weight (float): lambda_d.
        """
        super().__init__()
        self.head, self.scale_attention = head, scale_attention
        self.context_scale, self.detail_weight = context_scale, detail_weight
        self.common_stride, self.ignore_value, self.loss_weight = (
            head.common_stride,
            head.ignore_value,
            head.loss_weight,
        )

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Two heads of ``MODEL.HRDA.HEAD``; ``input_shape`` is that of the features of one scale."""
        keys, kind = cfg.MODEL.HRDA, SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.HRDA.HEAD)
        arguments = kind.from_config(cfg, input_shape)
        maps = arguments["num_classes"] if keys.ATTENTION_PER_CLASS else 1
        lighter = kind.attention_keys(maps) if hasattr(kind, "attention_keys") else {"num_classes": maps}
        return {
            "head": kind(**arguments),
            "scale_attention": kind(**{**arguments, **lighter}),
            "context_scale": keys.CONTEXT_SCALE,
            "detail_weight": keys.DETAIL_WEIGHT,
        }

    @property
    def predictor(self):
        """The layer whose outputs are the classes."""
        return self.head.predictor

    def forward(self, features, targets=None):
        """As of ``SemSegFPNHead``: (None, losses) in training, else (logits (N, K, H, W), {})."""
        if self.training:
            labels = [PixelLabels.of_truth(x) for x in targets]
            return None, {"loss_sem_seg": self.pixel_loss(features, labels)}
        return upsampled(self.layers(features), self.common_stride), {}

    def layers(self, features):
        """Features of both scales -> fused logits (N, K, H / common_stride, W / common_stride)."""
        return self.predict(features)[0]

    def predict(self, features):
        """Fused logits; logits of the context (N, K, h, w) and of the detail windows (N, W, K, h', w')."""
        boxes = features[BOXES]
        windows = {k[len(DETAIL) :]: x.flatten(0, 1) for k, x in features.items() if k.startswith(DETAIL)}
        context = self.head.layers(features)
        detail = self.head.layers(windows).unflatten(0, boxes.shape[:2])
        attention = self.scale_attention.layers(features).sigmoid()
        fused = fuse(context, detail, attention, boxes // self.common_stride, self.context_scale)
        return fused, context, detail

    def pixel_loss(self, features, targets):
        """(1 - lambda_d) CE(fused) + lambda_d CE(detail on its window), weighted as ``pixel_labels.pixel_loss`` is.

        Where the window is the whole image, nothing but the fused logits trains the context: it gets a loss of the
        same share.

        Args:
            features (dict): of both scales, of N images.
            targets (list[PixelLabels]): N, without padding.

        Returns:
            Tensor: scalar.
        """
        fused, context, detail = self.predict(features)
        boxes, share = features[BOXES], self.detail_weight
        size = [x * self.common_stride for x in fused.shape[-2:]]
        labels, weights = padded_labels(targets, size, self.ignore_value)

        def loss(logits, labels, weights):
            logits = upsampled(logits.float(), labels.shape[-1] // logits.shape[-1])
            return weighted_cross_entropy(logits, labels, weights, self.ignore_value)

        total, rest = 0.0, 1.0
        if share:
            total += share * loss(detail.flatten(0, 1), *(cut(x, boxes).flatten(0, 1) for x in (labels, weights)))
            rest -= share
            if covers(detail, fused.shape[-2:]):
                total += share * loss(context, labels, weights)
                rest -= share
        return (total + rest * loss(fused, labels, weights)) * self.loss_weight


def covers(detail, size):
    """Whether detail maps (N, W, C, h, w) are of a single window that is as large as the whole map of this size."""
    return detail.shape[1] == 1 and tuple(detail.shape[-2:]) == tuple(size)


def fuse(context, detail, attention, boxes, scale):
    """up((1 - a) y_c) + up(a) y_d (HRDA, Eq. 8), with a = 0 outside of the windows, and y_d their mean.

    Args:
        context (Tensor): y_c, logits (N, K, h, w).
        detail (Tensor): logits (N, W, K, h', w') of windows of a grid that is ``scale`` times as fine.
        attention (Tensor): a in [0, 1], (N, K or 1, h, w).
        boxes (Tensor): (N, W, 4) int64 on the CPU: the windows in that grid, at multiples of ``scale``.
        scale (int): how many times finer it is.

    Returns:
        Tensor: (N, K, scale h, scale w).
    """
    height, width = context.shape[-2:]
    inside = torch.zeros(len(context), 1, height, width)
    for map_, of in zip(inside, (boxes // scale).tolist()):
        for y1, x1, y2, x2 in of:
            map_[:, y1:y2, x1:x2] = 1
    attention = attention * inside.to(attention)
    placed = place(detail, boxes, (height * scale, width * scale))
    return upsampled((1 - attention) * context, scale) + upsampled(attention, scale) * placed
