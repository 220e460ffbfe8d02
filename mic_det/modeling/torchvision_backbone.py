"""The stages of any of torchvision's usual image classifiers, alone or below a feature pyramid."""

import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from ..errors import ConfigError
from .stages import STRIDES, Stages, feature_pyramid, traced


class TorchvisionStages(Stages):
    """The feature stages of a torchvision classifier, as a Detectron2 backbone: :class:`Stages`."""

    library = "torchvision"

    def __init__(self, name, norm="FrozenBN", freeze_at=0, output_norm=""):
        """
        Args:
            name (str): a model that ``torchvision.models.get_model`` knows.
            norm (str): "FrozenBN" turns BatchNorm layers into fixed affine maps; "BN" leaves them.
            freeze_at (int): stages that are not trained: 1 = the stem, 2 = up to res2, ... Their BatchNorm layers are
                fixed affine maps whatever ``norm`` says, so that their statistics stay too, as in Detectron2's ResNets.
            output_norm (str): "LN" or "", see :meth:`Stages.describe`.

        Raises:
            ConfigError: for an unknown name, or a model that is not a plain stack of stages.
        """
        super().__init__()
        try:
            model = torchvision.models.get_model(name, weights=None)
        except ValueError as e:
            raise ConfigError(f"MODEL.TORCHVISION.NAME is {name!r}: torchvision has no such model ({e}).") from e
        self.body = _without_classifier(model, name)
        self._channels_last = isinstance(model, torchvision.models.SwinTransformer)
        strides, channels = traced(self, self._strides_and_channels)
        last = {stride: i for i, stride in enumerate(strides)}  # last step of each stride
        if not set(STRIDES) <= set(last):
            raise ConfigError(f"MODEL.TORCHVISION.NAME is {name!r}: it has no features at strides 4, 8, 16 and 32.")
        self._taps = {last[stride]: output for stride, output in STRIDES.items()}
        self.describe({stride: channels[last[stride]] for stride in STRIDES}, output_norm)
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

    def _strides_and_channels(self, x):
        """Stride and channels after each step."""
        width, strides, channels = x.shape[-1], [], []
        for found in self._maps_of_steps(x):
            strides.append(width // found.shape[-1])
            channels.append(found.shape[1])
        return strides, channels

    def _maps_of_steps(self, x):
        """The map (N, C, H, W) after each step. Swin's steps have the channels last."""
        for step in self._steps():
            x = step(x)
            yield x.permute(0, 3, 1, 2) if self._channels_last else x

    def maps(self, x):
        steps = enumerate(self._maps_of_steps(x))
        return {self._taps[i]: x for i, x in steps if i in self._taps}


def _without_classifier(model, name):
    """The feature extractor alone, with torchvision's parameter names."""
    if isinstance(getattr(model, "features", None), nn.Sequential):
        return nn.ModuleDict({"features": model.features})
    if hasattr(model, "layer4"):
        parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        return nn.ModuleDict({part: getattr(model, part) for part in parts})
    raise ConfigError(
        f"MODEL.TORCHVISION.NAME is {name!r}: use a model with stages, such as resnet50, mobilenet_v2, "
        "efficientnet_b0, convnext_tiny or swin_t."
    )


@BACKBONE_REGISTRY.register()
def build_torchvision_backbone(cfg, input_shape):
    """The stages ``res2`` .. ``res5`` of ``MODEL.TORCHVISION.NAME``, for heads that fuse them, such as DAFormerHead."""
    keys = cfg.MODEL.TORCHVISION
    return TorchvisionStages(keys.NAME, keys.NORM, cfg.MODEL.BACKBONE.FREEZE_AT, keys.OUTPUT_NORM)


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg, input_shape):
    """FPN (levels p2 to p6) over ``MODEL.TORCHVISION.NAME``; cf. ``build_resnet_fpn_backbone``."""
    return feature_pyramid(cfg, build_torchvision_backbone(cfg, input_shape))
