"""Checks of Detectron2's own keys. A wrong value is refused early, with the key's name."""

import math

import torch
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads.box_head import ROI_BOX_HEAD_REGISTRY
from detectron2.modeling.roi_heads.keypoint_head import ROI_KEYPOINT_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.roi_heads import ROI_HEADS_REGISTRY

from ..errors import ConfigError
from .models import backbone_name
from .rules import (
    AT_LEAST_0,
    COUNT,
    NORMS,
    POSITIVE,
    SHARE,
    WEIGHT,
    Rule,
    each,
    is_number,
    number,
    one_of,
    optional,
    whole,
)
from .tree import flat_keys, value_of

REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.MIC.STUDENT": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "MODEL.RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
    "MODEL.SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.HRDA.BACKBONE": BACKBONE_REGISTRY,
    "MODEL.HRDA.HEAD": SEM_SEG_HEADS_REGISTRY,
}
UNREGISTERED = (("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"), ("MODEL.ROI_BOX_HEAD.NAME", ""))

BOX_LOSSES = one_of("smooth_l1", "giou", "diou", "ciou")
IOUS, IOU_LABELS = each(SHARE, rising=True), each(one_of(-1, 0, 1))
FOUR = each(POSITIVE, 4)
POOLERS = one_of("ROIAlign", "ROIAlignV2", "ROIPool")
# Detectron2 adds a process's rank to the seed, and NumPy takes 32 bits
SEEDS = Rule(lambda v: v == int(v) and v < 2**32 - 2**10, f"a whole number below {2**32 - 2**10}, negative = drawn")
RULES = {
    "SEED": SEEDS, "VIS_PERIOD": AT_LEAST_0,
    "SOLVER.IMS_PER_BATCH": COUNT, "SOLVER.MAX_ITER": COUNT, "SOLVER.CHECKPOINT_PERIOD": COUNT,
    "SOLVER.LR_SCHEDULER_NAME": one_of(
        "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR", "WarmupPolyLR", "WarmupInverseLR",
    ),
    "SOLVER.BASE_LR": WEIGHT, "SOLVER.BASE_LR_END": WEIGHT, "SOLVER.BIAS_LR_FACTOR": WEIGHT,
    "SOLVER.MOMENTUM": number(0, 1, open_right=True), "SOLVER.WEIGHT_DECAY": WEIGHT,
    "SOLVER.WEIGHT_DECAY_NORM": WEIGHT, "SOLVER.WEIGHT_DECAY_BIAS": optional(WEIGHT), "SOLVER.GAMMA": POSITIVE,
    "SOLVER.STEPS": each(AT_LEAST_0, 0, rising=True), "SOLVER.NUM_DECAYS": COUNT,
    "SOLVER.WARMUP_ITERS": AT_LEAST_0, "SOLVER.WARMUP_FACTOR": WEIGHT,
    "SOLVER.WARMUP_METHOD": one_of("constant", "linear"), "SOLVER.REFERENCE_WORLD_SIZE": AT_LEAST_0,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of("value", "norm"), "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": POSITIVE,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": POSITIVE,
    "DATALOADER.NUM_WORKERS": AT_LEAST_0, "DATALOADER.REPEAT_THRESHOLD": WEIGHT,
    "INPUT.MASK_FORMAT": one_of("polygon", "bitmask"), "INPUT.RANDOM_FLIP": one_of("none", "horizontal", "vertical"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of("choice", "range"), "INPUT.MIN_SIZE_TEST": AT_LEAST_0,
    "INPUT.MAX_SIZE_TEST": COUNT, "INPUT.MAX_SIZE_TRAIN": COUNT, "INPUT.CROP.SIZE": each(POSITIVE, 2),
    "INPUT.CROP.TYPE": one_of("relative", "relative_range", "absolute", "absolute_range"),
    "INPUT.FORMAT": one_of("RGB", "BGR"),
    "MODEL.BACKBONE.FREEZE_AT": AT_LEAST_0,
    "MODEL.RESNETS.NUM_GROUPS": COUNT, "MODEL.RESNETS.WIDTH_PER_GROUP": COUNT, "MODEL.RESNETS.NORM": NORMS,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": COUNT, "MODEL.RESNETS.STEM_OUT_CHANNELS": COUNT,
    "MODEL.RESNETS.RES5_DILATION": one_of(1, 2),
    "MODEL.FPN.OUT_CHANNELS": COUNT, "MODEL.FPN.NORM": NORMS, "MODEL.FPN.FUSE_TYPE": one_of("sum", "avg"),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": WEIGHT,
    "MODEL.ANCHOR_GENERATOR.SIZES": each(each(POSITIVE)), "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": each(each(POSITIVE)),
    "MODEL.ANCHOR_GENERATOR.OFFSET": number(0, 1, open_right=True),
    "MODEL.RPN.IOU_THRESHOLDS": IOUS, "MODEL.RPN.IOU_LABELS": IOU_LABELS, "MODEL.RPN.BATCH_SIZE_PER_IMAGE": COUNT,
    "MODEL.RPN.POSITIVE_FRACTION": SHARE, "MODEL.RPN.NMS_THRESH": SHARE, "MODEL.RPN.PRE_NMS_TOPK_TRAIN": COUNT,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": COUNT, "MODEL.RPN.POST_NMS_TOPK_TRAIN": COUNT, "MODEL.RPN.POST_NMS_TOPK_TEST": COUNT,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": BOX_LOSSES, "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": WEIGHT,
    "MODEL.RPN.BBOX_REG_WEIGHTS": FOUR, "MODEL.RPN.SMOOTH_L1_BETA": WEIGHT, "MODEL.RPN.LOSS_WEIGHT": WEIGHT,
    "MODEL.ROI_HEADS.NUM_CLASSES": COUNT, "MODEL.ROI_HEADS.IOU_THRESHOLDS": IOUS,
    "MODEL.ROI_HEADS.IOU_LABELS": IOU_LABELS, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": COUNT,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": SHARE, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": SHARE,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": COUNT, "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": AT_LEAST_0,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": POOLERS, "MODEL.ROI_BOX_HEAD.NUM_FC": AT_LEAST_0,
    "MODEL.ROI_BOX_HEAD.FC_DIM": COUNT, "MODEL.ROI_BOX_HEAD.NUM_CONV": AT_LEAST_0, "MODEL.ROI_BOX_HEAD.CONV_DIM": COUNT,
    "MODEL.ROI_BOX_HEAD.NORM": NORMS, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": WEIGHT, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": FOUR,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": WEIGHT,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": COUNT, "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": AT_LEAST_0,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": POOLERS, "MODEL.ROI_MASK_HEAD.NUM_CONV": AT_LEAST_0,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": COUNT, "MODEL.ROI_MASK_HEAD.NORM": NORMS,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": COUNT, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": each(COUNT),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": COUNT, "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": AT_LEAST_0,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": POOLERS, "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": WEIGHT,
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": AT_LEAST_0,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": COUNT, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": whole(0, 255),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": COUNT, "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": COUNT,
    "MODEL.SEM_SEG_HEAD.NORM": NORMS, "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": WEIGHT,
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": WEIGHT, "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": SHARE,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": WEIGHT,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": SHARE,
    "MODEL.RETINANET.NUM_CLASSES": COUNT, "MODEL.RETINANET.NUM_CONVS": COUNT,
    "MODEL.RETINANET.IOU_THRESHOLDS": IOUS, "MODEL.RETINANET.IOU_LABELS": IOU_LABELS,
    "MODEL.RETINANET.PRIOR_PROB": number(0, 1, open_left=True, open_right=True),
    "MODEL.RETINANET.SCORE_THRESH_TEST": SHARE, "MODEL.RETINANET.NMS_THRESH_TEST": SHARE,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": COUNT, "MODEL.RETINANET.BBOX_REG_WEIGHTS": FOUR,
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": BOX_LOSSES, "MODEL.RETINANET.FOCAL_LOSS_ALPHA": SHARE,
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": WEIGHT,
    "TEST.EVAL_PERIOD": AT_LEAST_0, "TEST.DETECTIONS_PER_IMAGE": COUNT, "TEST.PRECISE_BN.NUM_ITER": COUNT,
    "TEST.KEYPOINT_OKS_SIGMAS": each(POSITIVE, 0),
    "TEST.AUG.MIN_SIZES": each(COUNT), "TEST.AUG.MAX_SIZE": COUNT,
}  # fmt: skip
# sampler -> the key that it needs; some versions of Detectron2 do not have the key
SAMPLERS = {
    "TrainingSampler": "SEED",
    "RepeatFactorTrainingSampler": "DATALOADER.REPEAT_THRESHOLD",
    "RandomSubsetTrainingSampler": "DATALOADER.RANDOM_SUBSET_RATIO",
    "WeightedTrainingSampler": "DATASETS.TRAIN_REPEAT_FACTOR",
    "WeightedCategoryTrainingSampler": "DATASETS.TRAIN_REPEAT_FACTOR",
    "RareClassSampler": "DATALOADER.RARE_CLASSES",
}
RESNET_DEPTHS = (18, 34, 50, 101, 152)


def check_detectron2_keys(cfg, defaults):
    """
    Args:
        cfg (CfgNode): a merged config.
        defaults (CfgNode): the same keys with their defaults.

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
        # Detectron2 accepts these names without a registry: no box head, and proposals from a file
        if name not in registry and (key, name) not in UNREGISTERED:
            known = ", ".join(sorted(n for n, _ in registry))
            raise ConfigError(
                f"{key} is {name!r}, which is not registered. Known: {known}; --import MODULE adds your own."
            )
    samplers = one_of(*(n for n, key in SAMPLERS.items() if value_of(cfg, key, default=None) is not None))
    for key, rule in {**RULES, "DATALOADER.SAMPLER_TRAIN": samplers}.items():
        value = value_of(cfg, key, default=None)
        if not rule.allows(value):
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(f"{key} is {shown!r}: use {rule.words}.")
    _check_together(cfg)
    _check_input(cfg)
    _check_device(cfg.MODEL.DEVICE)
    if "resnet" in backbone_name(cfg) and cfg.MODEL.RESNETS.DEPTH not in RESNET_DEPTHS:
        raise ConfigError(f"MODEL.RESNETS.DEPTH is {cfg.MODEL.RESNETS.DEPTH}: use one of {RESNET_DEPTHS}.")
    for key in ("TRAIN", "TEST", "TARGET"):
        wrong = next((n for n in cfg.DATASETS[key] if not isinstance(n, str)), None)
        if wrong is not None:
            raise ConfigError(f"DATASETS.{key} has the entry {wrong!r}: it must be a list of data sets' names.")


def _check_together(cfg):
    """Check values that are allowed alone, but not together with others."""
    s, crop = cfg.SOLVER, cfg.INPUT.CROP
    if s.LR_SCHEDULER_NAME == "WarmupCosineLR" and not (0 < s.BASE_LR and s.BASE_LR_END <= s.BASE_LR):
        raise ConfigError(
            f"SOLVER.BASE_LR is {s.BASE_LR} and SOLVER.BASE_LR_END {s.BASE_LR_END}: WarmupCosineLR needs "
            "BASE_LR above 0 and BASE_LR_END at most BASE_LR."
        )
    if s.NESTEROV and not s.MOMENTUM:
        raise ConfigError("SOLVER.NESTEROV is True, but SOLVER.MOMENTUM is 0: use a momentum above 0.")
    if crop.ENABLED and crop.TYPE.startswith("relative") and max(crop.SIZE) > 1:
        raise ConfigError(f"INPUT.CROP.SIZE is {list(crop.SIZE)}: {crop.TYPE} takes shares of the image, in (0, 1].")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and isinstance(sizes, (list, tuple)) and len(sizes) != 2:
        raise ConfigError(f"INPUT.MIN_SIZE_TRAIN is {list(sizes)}: MIN_SIZE_TRAIN_SAMPLING range takes two sizes.")
    for part in ("RPN", "ROI_HEADS", "RETINANET"):
        thresholds, labels = cfg.MODEL[part].IOU_THRESHOLDS, cfg.MODEL[part].IOU_LABELS
        if len(labels) != len(thresholds) + 1:
            raise ConfigError(
                f"MODEL.{part}.IOU_LABELS is {list(labels)}: use one more than the {len(thresholds)} values of "
                f"MODEL.{part}.IOU_THRESHOLDS."
            )


def _check_input(cfg):
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        values = cfg.MODEL[key]
        if len(values) != 3 or not all(is_number(v) for v in values) or (key == "PIXEL_STD" and min(values) <= 0):
            more = " above 0" if key == "PIXEL_STD" else ""
            raise ConfigError(f"MODEL.{key} is {list(values)}: use three numbers{more}, in the order of INPUT.FORMAT.")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = sizes if isinstance(sizes, (list, tuple)) else [sizes]
    if not sizes or not all(is_number(v) and v >= 0 for v in sizes):
        raise ConfigError(f"INPUT.MIN_SIZE_TRAIN is {list(sizes)}: use short sides in pixels, such as (800,).")


def _check_device(device):
    try:
        torch.device(device)
    except RuntimeError:
        raise ConfigError(f"MODEL.DEVICE is {device!r}: use cpu, cuda or cuda:0.") from None
