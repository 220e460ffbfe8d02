"""What encoders of other libraries have in common: maps ``res2`` to ``res5``, and a feature pyramid on them."""

import torch
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

STRIDES = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}
# ImageNet as most classifiers see it (RGB in [0, 255])
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Stages(Backbone):
    """Maps ``res2`` to ``res5``, the last of stride 4, 8, 16 and 32, of a classifier in ``body``.

    The names of parameters below ``body`` are the library's own, so that its state dicts fit.

    Attributes:
        library (str): whose classifier it is.
        pixel_mean, pixel_std (tuple): images as its ImageNet weights expect them, RGB in [0, 255].
    """

    library, pixel_mean, pixel_std = "", IMAGENET_MEAN, IMAGENET_STD

    def describe(self, channels, output_norm=""):
        """
        Args:
            channels (dict[int, int]): channels of the map of each stride.
            output_norm (str): "LN" normalises each map over its channels, as detectors on Swin and ConvNeXt do, whose
                last stages have no norm of their own; "" leaves the maps as they are.
        """
        self._shapes = {name: ShapeSpec(channels=channels[stride], stride=stride) for stride, name in STRIDES.items()}
        if output_norm:
            self.output_norms = nn.ModuleDict({k: get_norm(output_norm, x.channels) for k, x in self._shapes.items()})

    def maps(self, x):
        """(N, 3, H, W) normalised images -> dict of maps (N, C, H / stride, W / stride) before the norms."""
        raise NotImplementedError

    def forward(self, x):
        """(N, 3, H, W) normalised images -> dict of maps (N, C, H / stride, W / stride)."""
        maps = self.maps(x)
        norms = getattr(self, "output_norms", None)
        return {k: norms[k](x) for k, x in maps.items()} if norms else maps

    def output_shape(self):
        return dict(self._shapes)

    @property
    def size_divisibility(self):
        return 32


@torch.no_grad()
def traced(module, run, size=(64, 96)):
    """What ``run`` returns for a blank image in eval mode; the module is in training mode again afterwards."""
    module.eval()
    found = run(torch.zeros(1, 3, *size))
    module.train()
    return found


def feature_pyramid(cfg, bottom_up):
    """FPN (levels p2 to p6) over ``MODEL.FPN.IN_FEATURES`` of an encoder; cf. ``build_resnet_fpn_backbone``."""
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
