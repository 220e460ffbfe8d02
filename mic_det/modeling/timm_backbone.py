"""The stages of timm's image classifiers (ConvNeXt, Swin, EfficientNet, ...), alone or below a feature pyramid.

timm is an extra of the package. It is imported where a model is built, and only then.
"""

import re

import torch
from detectron2.modeling import BACKBONE_REGISTRY
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConfigError
from .stages import STRIDES, Stages, feature_pyramid, traced


def import_timm(needed_by):
    """The package timm.

    Raises:
        ConfigError: where it is missing; names the key that needs it.
    """
    try:
        import timm
    except ImportError as e:
        raise ConfigError(f"{needed_by} needs the package timm ({e}): pip install 'mic_det[timm]'.") from e
    return timm


class TimmStages(Stages):
    """The feature stages of a timm classifier, as a Detectron2 backbone: :class:`Stages`."""

    library = "timm"

    def __init__(self, name, norm="FrozenBN", freeze_at=0, output_norm="", drop_path=0.0):
        """
        Args:
            name (str): a model that ``timm.create_model`` knows.
            norm (str): "FrozenBN" turns BatchNorm layers into fixed affine maps; "BN" leaves them.
            freeze_at (int): stages that are not trained: 1 = the stem, 2 = what res2 depends on, 3 = what res3 depends
                on, ... Their BatchNorm layers are fixed affine maps whatever ``norm`` says.
            output_norm (str): "LN" or "", see :meth:`Stages.describe`.
            drop_path (float): probability that a residual branch is dropped in training, as timm defines it.

        Raises:
            ConfigError: where timm is missing or does not know the name; for a model whose maps have other strides, or
                that takes images of one size alone.
        """
        super().__init__()
        timm = import_timm(f"MODEL.BACKBONE.NAME build_timm_fpn_backbone (MODEL.TIMM.NAME {name!r})")
        self.name = name
        self.body = _create(timm, name, drop_path)
        strides = [info["reduction"] for info in self.body.feature_info]
        if not set(STRIDES) <= set(strides):
            raise self._refused(
                f"it has maps at strides {sorted(set(strides))}, but a pyramid needs 4, 8, 16 and 32. For a plain ViT, "
                "use MODEL.BACKBONE.NAME build_vitdet_backbone"
            )
        last = {stride: i for i, stride in enumerate(strides)}
        self._indices = [last[stride] for stride in STRIDES]
        if hasattr(self.body, "prune_intermediate_layers"):
            self._indices = self.body.prune_intermediate_layers(self._indices, prune_norm=True, prune_head=True)
        settings = self.body.pretrained_cfg or {}
        if settings.get("mean") and settings.get("std"):
            self.pixel_mean, self.pixel_std = (tuple(255 * x for x in settings[k]) for k in ("mean", "std"))
        self.describe(self._checked_channels(), output_norm)
        self._freeze(timm, norm, freeze_at)

    def _refused(self, why):
        return ConfigError(f"MODEL.TIMM.NAME is {self.name!r}: {why}.")

    def _checked_channels(self):
        """Channels of the map of each stride, from maps of a blank image whose sides are no multiple of 64."""
        size = (96, 160)
        try:
            maps = traced(self, self.maps, size)
        except (AttributeError, AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as e:
            reason = " ".join(str(e).split())[:160] or type(e).__name__
            raise self._refused(f"it has no maps for an image of {size[0]} x {size[1]} pixels ({reason})") from e
        for stride, name in STRIDES.items():
            if tuple(maps[name].shape[2:]) != (size[0] // stride, size[1] // stride):
                raise self._refused(
                    f"its map {name} of {size} is {tuple(maps[name].shape[2:])}, not of stride {stride}"
                )
        return {stride: maps[name].shape[1] for stride, name in STRIDES.items()}

    def maps(self, x):
        found = self.body.forward_intermediates(x, indices=self._indices, output_fmt="NCHW", intermediates_only=True)
        return dict(zip(STRIDES.values(), found))

    def _freeze(self, timm, norm, freeze_at):
        freeze = timm.layers.freeze_batch_norm_2d  # BatchNorm layers of timm may have an activation in them
        for p in self._first_stages(freeze_at):
            p.requires_grad_(False)
        for name, module in list(self.body.named_modules()):
            own = list(module.parameters())
            if isinstance(module, _BatchNorm) and (norm == "FrozenBN" or own and not any(p.requires_grad for p in own)):
                parent, _, child = name.rpartition(".")
                setattr(self.body.get_submodule(parent), child, freeze(module))

    def _first_stages(self, freeze_at):
        """The parameters of the first stages: those that a stage's map depends on."""
        if freeze_at <= 0:
            return []
        names = dict(self.body.named_parameters())
        if freeze_at == 1:
            stem = self.body.group_matcher(coarse=True)["stem"]
            patterns = [stem] if isinstance(stem, str) else [x[0] if isinstance(x, tuple) else x for x in stem]
            return [p for name, p in names.items() if any(re.match(x, name) for x in patterns)]
        self.body.eval()
        found = self.maps(torch.zeros(1, 3, 64, 64))[f"res{min(freeze_at, 5)}"].sum()
        self.body.train()
        gradients = torch.autograd.grad(found, list(names.values()), allow_unused=True)
        return [p for p, gradient in zip(names.values(), gradients) if gradient is not None]


def _create(timm, name, drop_path):
    """A timm model without a classifier, for images of any size where it can be."""
    if not timm.is_model(name.partition(".")[0]):
        near = timm.list_models(f"*{name.partition('.')[0].split('_')[0]}*")[:5]
        hint = f" Similar names: {', '.join(near)}." if near else ""
        raise ConfigError(f"MODEL.TIMM.NAME is {name!r}: timm {timm.__version__} has no such model.{hint}")
    # Swin's windows: at any size, all of them shifted as at the size of detection
    options = [{"strict_img_size": False, "always_partition": True}, {"strict_img_size": False}, {}]
    error = None
    for more in [{**x, "drop_path_rate": drop_path} for x in options] + (options if not drop_path else []):
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **more)
        except TypeError as e:  # a model without such an option
            error = e
    raise ConfigError(
        f"MODEL.TIMM.NAME is {name!r}: timm cannot build it with MODEL.TIMM.DROP_PATH {drop_path} ({error})."
    ) from error


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape):
    """The stages ``res2`` .. ``res5`` of ``MODEL.TIMM.NAME``, for heads that fuse them, such as DAFormerHead."""
    keys = cfg.MODEL.TIMM
    return TimmStages(keys.NAME, keys.NORM, cfg.MODEL.BACKBONE.FREEZE_AT, keys.OUTPUT_NORM, keys.DROP_PATH)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape):
    """FPN (levels p2 to p6) over ``MODEL.TIMM.NAME``; cf. ``build_resnet_fpn_backbone``."""
    return feature_pyramid(cfg, build_timm_backbone(cfg, input_shape))
