"""The context-aware decoder of DAFormer (Hoyer et al., CVPR 2022, Sec. 3.2) as a head for segmentation."""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, DepthwiseSeparableConv2d, get_norm
from detectron2.modeling.meta_arch.semantic_seg import SEM_SEG_HEADS_REGISTRY, SemSegFPNHead
from torch import nn


@SEM_SEG_HEADS_REGISTRY.register()
class DAFormerHead(SemSegFPNHead):
    """Feature maps of all stages, each by a linear layer to one width, fused with context of several dilations.

    Losses and ``forward`` are those of ``SemSegFPNHead``, whose layers alone are others.
    """

    @configurable
    def __init__(
        self,
        input_shape,
        *,
        num_classes,
        conv_dims=256,
        common_stride=4,
        loss_weight=1.0,
        norm="BN",
        ignore_value=255,
        dilations=(6, 12, 18),
        dropout=0.1,
    ):
        """
        Args:
            input_shape (dict[str, ShapeSpec]): of the feature maps; the finest has stride ``common_stride``.
            num_classes (int), ignore_value (int), loss_weight (float): as of ``SemSegFPNHead``.
            conv_dims (int): width of each embedding, of each branch and of the fused map.
            common_stride (int): of the logits that ``layers`` returns.
            norm (str): after each convolution of the fusion.
            dilations (sequence of int): of the depthwise separable branches; () = fusion by a 1 x 1 convolution alone.
            dropout (float): share of channels that are left out before the predictor, in training.

        Raises:
            ValueError: where the finest map has another stride.
        """
        nn.Module.__init__(self)  # not SemSegFPNHead's, which makes its own layers
        shapes = sorted(input_shape.items(), key=lambda x: x[1].stride)
        if not shapes or shapes[0][1].stride != common_stride:
            raise ValueError(
                f"DAFormerHead needs a feature map of stride {common_stride} (MODEL.SEM_SEG_HEAD.COMMON_STRIDE) among "
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES; it has {[(k, v.stride) for k, v in shapes]}"
            )
        self.in_features = [name for name, _ in shapes]
        self.common_stride, self.loss_weight, self.ignore_value = common_stride, loss_weight, ignore_value
        # a linear layer over channels is a 1 x 1 convolution
        self.embeddings = nn.ModuleList(nn.Conv2d(s.channels, conv_dims, 1) for _, s in shapes)
        self.fusion = ContextFusion(conv_dims * len(shapes), conv_dims, dilations, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = nn.Conv2d(conv_dims, num_classes, 1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg, input_shape):
        keys = cfg.MODEL.DAFORMER_HEAD
        return {**super().from_config(cfg, input_shape), "dilations": keys.DILATIONS, "dropout": keys.DROPOUT}

    @classmethod
    def attention_keys(cls, num_maps):
        """How HRDA's scale attention differs from a head of the same config: 1 x 1 fusion (HRDA, Sec. 3.2)."""
        return {"num_classes": num_maps, "dilations": ()}

    def layers(self, features):
        """Backbone features -> logits (N, K, H / common_stride, W / common_stride)."""
        size = features[self.in_features[0]].shape[-2:]
        maps = [embed(features[name]) for name, embed in zip(self.in_features, self.embeddings)]
        maps = [m if m.shape[-2:] == size else _resized(m, size) for m in maps]
        return self.predictor(self.dropout(self.fusion(torch.cat(maps, dim=1))))


class ContextFusion(nn.Module):
    """A 1 x 1 convolution and depthwise separable ones of several dilations, side by side, then a 3 x 3 convolution."""

    def __init__(self, channels, width, dilations, norm):
        super().__init__()
        branches, parts = [_convolution(channels, width, 1, norm)], {"norm": norm, "activation": F.relu}
        parts = {f"{name}{i}": value for name, value in parts.items() for i in (1, 2)}  # of both convolutions
        branches += [DepthwiseSeparableConv2d(channels, width, 3, padding=d, dilation=d, **parts) for d in dilations]
        self.branches = nn.ModuleList(branches)
        self.bottleneck = _convolution(width * len(branches), width, 3, norm) if dilations else nn.Identity()

    def forward(self, x):
        return self.bottleneck(torch.cat([branch(x) for branch in self.branches], dim=1))


def _convolution(channels, width, kernel, norm):
    layer = Conv2d(
        channels, width, kernel, padding=kernel // 2, bias=not norm, norm=get_norm(norm, width), activation=F.relu
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _resized(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
