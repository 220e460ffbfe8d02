"""Settings of Detectron2's own keys that would fail late, or far from their name, are refused with it."""

import math

import torch
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.roi_heads.roi_heads import ROI_HEADS_REGISTRY

from .config import ConfigError

REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.MIC.STUDENT": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
}
# key -> least value; all of them whole numbers
WHOLE = {
    "SOLVER.IMS_PER_BATCH": 1, "SOLVER.MAX_ITER": 1, "SOLVER.CHECKPOINT_PERIOD": 1, "SOLVER.WARMUP_ITERS": 0,
    "MODEL.ROI_HEADS.NUM_CLASSES": 1, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 1, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 1,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 1, "MODEL.BACKBONE.FREEZE_AT": 0, "INPUT.MIN_SIZE_TEST": 0,
    "INPUT.MAX_SIZE_TEST": 1, "INPUT.MAX_SIZE_TRAIN": 1, "DATALOADER.NUM_WORKERS": 0, "TEST.EVAL_PERIOD": 0,
    "TEST.DETECTIONS_PER_IMAGE": 1, "VIS_PERIOD": 0,
}  # fmt: skip
RESNET_DEPTHS = (18, 34, 50, 101, 152)
FORMATS = ("RGB", "BGR")


def check_detectron2_keys(cfg, defaults):
    """
    Args:
        cfg (CfgNode): a merged config.
        defaults (CfgNode): the same keys, as they are without any config file.

    Raises:
        ConfigError: names the first wrong key, its value and what is allowed.
    """
    for key in flat_keys(cfg):
        value = value_of(cfg, key)
        if value is None and value_of(defaults, key, default=None) is not None:
            raise ConfigError(f"{key} is null: leave it out, or give it a value such as {value_of(defaults, key)!r}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key} is {value}: use a finite number.")
    for key, registry in REGISTRIES.items():
        name = value_of(cfg, key)
        if name not in registry and name != "PrecomputedProposals":  # which Detectron2 knows without a registry
            known = ", ".join(sorted(n for n, _ in registry))
            raise ConfigError(
                f"{key} is {name!r}, which is not registered. Known: {known}; --import MODULE adds your own."
            )
    for key, least in WHOLE.items():
        if value_of(cfg, key) < least:
            raise ConfigError(f"{key} is {value_of(cfg, key)}: use a whole number of at least {least}.")
    if cfg.SOLVER.BASE_LR < 0:
        raise ConfigError(f"SOLVER.BASE_LR is {cfg.SOLVER.BASE_LR}: use a number of at least 0.")
    _check_input(cfg)
    _check_device(cfg.MODEL.DEVICE)
    if "resnet" in cfg.MODEL.BACKBONE.NAME and cfg.MODEL.RESNETS.DEPTH not in RESNET_DEPTHS:
        raise ConfigError(f"MODEL.RESNETS.DEPTH is {cfg.MODEL.RESNETS.DEPTH}: use one of {RESNET_DEPTHS}.")
    for key in ("TRAIN", "TEST", "TARGET"):
        wrong = next((n for n in cfg.DATASETS[key] if not isinstance(n, str)), None)
        if wrong is not None:
            raise ConfigError(f"DATASETS.{key} has the entry {wrong!r}: it must be a list of data sets' names.")


def _check_input(cfg):
    if cfg.INPUT.FORMAT not in FORMATS:
        raise ConfigError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: use one of {', '.join(FORMATS)}.")
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        values = cfg.MODEL[key]
        if len(values) != 3 or not all(_is_number(v) for v in values) or (key == "PIXEL_STD" and min(values) <= 0):
            more = " above 0" if key == "PIXEL_STD" else ""
            raise ConfigError(f"MODEL.{key} is {list(values)}: use three numbers{more}, in the order of INPUT.FORMAT.")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = sizes if isinstance(sizes, (list, tuple)) else [sizes]
    if not sizes or not all(_is_number(v) and v >= 0 for v in sizes):
        raise ConfigError(f"INPUT.MIN_SIZE_TRAIN is {list(sizes)}: use short sides in pixels, such as (800,).")


def _check_device(device):
    try:
        torch.device(device)
    except RuntimeError:
        raise ConfigError(f"MODEL.DEVICE is {device!r}: use cpu, cuda or cuda:0.") from None


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def flat_keys(cfg, prefix=""):
    """Dotted names of all keys that hold a value; declared data sets apart, whose names are the user's."""
    for key, value in cfg.items():
        if isinstance(value, dict) and f"{prefix}{key}" != "DATASETS.DECLARED":
            yield from flat_keys(value, f"{prefix}{key}.")
        elif not isinstance(value, dict):
            yield f"{prefix}{key}"


def value_of(cfg, key, **default):
    """A key's value by its dotted name; ``default`` where there is no such key."""
    node = cfg
    for part in key.split("."):
        if part not in node:
            return default["default"]
        node = node[part]
    return node
