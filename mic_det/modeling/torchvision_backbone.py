"""The stages of any of torchvision's usual image classifiers, alone or below a feature pyramid."""

import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from ..errors import ConfigError

STRIDES = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}


class TorchvisionStages(Backbone):
    """The feature stages of a torchvision classifier, as a Detectron2 backbone.

    Outputs ``res2`` .. ``res5``: the last map of stride 4, 8, 16 and 32. Parameters keep
    torchvision's names below ``body``, so that torchvision's state dicts fit.
    """

    def __init__(self, name, norm="FrozenBN", freeze_at=0):
        """
        Args:
            name (str): a model that ``torchvision.models.get_model`` knows.
            norm (str): "FrozenBN" turns BatchNorm layers into fixed affine maps; "BN" leaves them.
            freeze_at (int): stages that are not trained: 1 = the stem, 2 = up to res2, ... Their BatchNorm layers are
                fixed affine maps whatever ``norm`` says, so that their statistics stay too, as in Detectron2's ResNets.

        Raises:
            ConfigError: for an unknown name, or a model that is not a plain stack of stages.
        """
        super().__init__()
        try:
            model = torchvision.models.get_model(name, weights=None)
        except ValueError as e:
            raise ConfigError(f"MODEL.TORCHVISION.NAME is {name!r}: torchvision has no such model ({e}).") from e
        self.body = _without_classifier(model, name)
        strides, channels = self._trace()
        last = {stride: i for i, stride in enumerate(strides)}  # last step of each stride
        if not set(STRIDES) <= set(last):
            raise ConfigError(f"MODEL.TORCHVISION.NAME is {name!r}: it has no features at strides 4, 8, 16 and 32.")
        self._taps = {last[stride]: output for stride, output in STRIDES.items()}
        self._shapes = {
            output: ShapeSpec(channels=channels[last[stride]], stride=stride) for stride, output in STRIDES.items()
        }
        stem = max((i for i, stride in enumerate(strides) if stride <= 2), default=0)  # ConvNeXt's has stride 4
        stage_ends = [-1, stem, *sorted(self._taps)]
        container = self.body["features"] if "features" in self.body else self.body
        for name, step in list(container.named_children())[: stage_ends[min(freeze_at, 5)] + 1]:
            # a step may itself be a BatchNorm layer (ResNet's bn1), which is replaced in its container
            container.add_module(name, FrozenBatchNorm2d.convert_frozen_batchnorm(step.requires_grad_(False)))
        if norm == "FrozenBN":
            self.body = FrozenBatchNorm2d.convert_frozen_batchnorm(self.body)

    def _steps(self):
        """The modules to run one after the other."""
        return list(self.body["features"]) if "features" in self.body else list(self.body.values())

    @torch.no_grad()
    def _trace(self):
        """Stride and channels after each step, seen on a blank image."""
        self.body.eval()
        x, strides, channels = torch.zeros(1, 3, 64, 64), [], []
        for step in self._steps():
            x = step(x)
            strides.append(64 // x.shape[-1])
            channels.append(x.shape[1])
        self.body.train()
        return strides, channels

    def forward(self, x):
        """(N, 3, H, W) normalised images -> dict of maps (N, C, H / stride, W / stride)."""
        outputs = {}
        for i, step in enumerate(self._steps()):
            x = step(x)
            if i in self._taps:
                outputs[self._taps[i]] = x
        return outputs

    def output_shape(self):
        return dict(self._shapes)

    @property
    def size_divisibility(self):
        return 32


def _without_classifier(model, name):
    """The feature extractor alone, with torchvision's parameter names."""
    if isinstance(getattr(model, "features", None), nn.Sequential):
        return nn.ModuleDict({"features": model.features})
    if hasattr(model, "layer4"):
        parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        return nn.ModuleDict({part: getattr(model, part) for part in parts})
    raise ConfigError(
        f"MODEL.TORCHVISION.NAME is {name!r}: use a model with stages, such as resnet50, mobilenet_v2, "
        "efficientnet_b0 or convnext_tiny."
    )


@BACKBONE_REGISTRY.register()
def build_torchvision_backbone(cfg, input_shape):
    """The stages ``res2`` .. ``res5`` of ``MODEL.TORCHVISION.NAME``, for heads that fuse them, such as DAFormerHead."""
    return TorchvisionStages(cfg.MODEL.TORCHVISION.NAME, cfg.MODEL.TORCHVISION.NORM, cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg, input_shape):
    """FPN (levels p2 to p6) over ``MODEL.TORCHVISION.NAME``; cf. ``build_resnet_fpn_backbone``."""
    return FPN(
        bottom_up=build_torchvision_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
