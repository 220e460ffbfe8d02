"""Settings that cannot work are refused before anything is built or loaded."""

import logging
import re

from detectron2.config import CfgNode as CN

from .config import (
    ALIGNED_REGIONS,
    ALIGNED_VIEWS,
    AMP_DTYPES,
    BACKBONE_NORMS,
    EMPTY_IMAGE_RULES,
    EVALUATED_MODELS,
    MASKED_DOMAINS,
    QUALITY_MODES,
    REVERSAL_SCHEDULES,
    WEIGHT_SOURCES,
    ConfigError,
    is_mic,
    student_architecture,
)
from .printable import printable


def validate_mic_config(cfg):
    """Refuse settings that cannot work before anything is built or loaded.

    Args:
        cfg (CfgNode): a config with mic_det's keys.

    Raises:
        ConfigError: names the first wrong key, its value and what is allowed.
    """
    mic = cfg.MODEL.MIC
    _check_unit_interval("MODEL.MIC.TEACHER.ALPHA", mic.TEACHER.ALPHA, right_open=True)
    _check_unit_interval("MODEL.MIC.MASK.RATIO", mic.MASK.RATIO, right_open=True)
    for key in ("SCORE_THRESHOLD", "NMS_THRESHOLD"):
        _check_unit_interval(f"MODEL.MIC.PSEUDO_BOXES.{key}", mic.PSEUDO_BOXES[key])
    for value in mic.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS:
        _check_unit_interval("MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS", value)
    _check_enum("MODEL.MIC.MASK.DOMAINS", mic.MASK.DOMAINS, MASKED_DOMAINS)
    _check_enum("MODEL.MIC.CONSISTENCY.QUALITY", mic.CONSISTENCY.QUALITY, QUALITY_MODES)
    _check_enum("MODEL.MIC.CONSISTENCY.EMPTY_IMAGES", mic.CONSISTENCY.EMPTY_IMAGES, EMPTY_IMAGE_RULES)
    _check_enum("MODEL.MIC.EVALUATE", mic.EVALUATE, EVALUATED_MODELS)
    _check_enum("MODEL.MIC.WEIGHTS_FROM", mic.WEIGHTS_FROM, WEIGHT_SOURCES)
    _check_unit_interval("MODEL.BACKBONE.MIN_MATCHED_KEYS", cfg.MODEL.BACKBONE.MIN_MATCHED_KEYS)
    _check_enum("SOLVER.AMP.DTYPE", cfg.SOLVER.AMP.DTYPE, AMP_DTYPES)
    _check_enum("MODEL.TORCHVISION.NORM", cfg.MODEL.TORCHVISION.NORM, BACKBONE_NORMS)
    _check_at_least("MODEL.MIC.MASK.BLOCK_SIZE", mic.MASK.BLOCK_SIZE, 1, whole=True)
    _check_at_least("MODEL.MIC.PSEUDO_BOXES.MAX_PER_IMAGE", mic.PSEUDO_BOXES.MAX_PER_IMAGE, 1, whole=True)
    _check_at_least("MODEL.MIC.BURN_IN_STEPS", mic.BURN_IN_STEPS, 0, whole=True)
    _check_at_least("MODEL.MIC.TEACHER.INPUT_SIZE", mic.TEACHER.INPUT_SIZE, 0, whole=True)
    _check_at_least("MODEL.MIC.CONSISTENCY.RAMP_UP_STEPS", mic.CONSISTENCY.RAMP_UP_STEPS, 0, whole=True)
    _check_at_least("SOLVER.IMS_PER_BATCH_TARGET", cfg.SOLVER.IMS_PER_BATCH_TARGET, 1, whole=True)
    _check_at_least("SOLVER.ACCUMULATE_STEPS", cfg.SOLVER.ACCUMULATE_STEPS, 1, whole=True)
    _check_at_least("SOLVER.CHECKPOINT_KEEP", cfg.SOLVER.CHECKPOINT_KEEP, 0, whole=True)
    _check_at_least("SOLVER.CHECKPOINT_PERIOD", cfg.SOLVER.CHECKPOINT_PERIOD, 1, whole=True)
    _check_at_least("DATALOADER.WORKER_TIMEOUT", cfg.DATALOADER.WORKER_TIMEOUT, 0, whole=True)
    _check_numbers(cfg)
    _check_at_least("TEST.PSEUDO_LABELS.MAX_IMAGES", cfg.TEST.PSEUDO_LABELS.MAX_IMAGES, 0, whole=True)
    _check_at_least("MODEL.MIC.PSEUDO_BOXES.MIN_SIZE", mic.PSEUDO_BOXES.MIN_SIZE, 0)
    for key in ("WEIGHT", "RPN_CLS_WEIGHT", "ROI_CLS_WEIGHT", "RPN_LOC_WEIGHT", "ROI_LOC_WEIGHT"):
        _check_at_least(f"MODEL.MIC.CONSISTENCY.{key}", mic.CONSISTENCY[key], 0)
    _check_color(mic.COLOR)
    _check_alignment(cfg)
    _check_sem_seg(mic.SEM_SEG)
    if student_architecture(cfg) == "PanopticFPN" and not cfg.MODEL.MASK_ON:
        raise ConfigError("PanopticFPN needs instance masks: set MODEL.MASK_ON True, or use BoxPanopticFPN.")
    _check_sequential_backward(cfg)
    _check_classes_and_sets(cfg)
    _check_output_dir(cfg.OUTPUT_DIR)


def _check_numbers(cfg):
    solver, watch = cfg.SOLVER, cfg.MODEL.MIC.WATCH
    _check_at_least("SOLVER.NON_FINITE.SKIP_STEPS", solver.NON_FINITE.SKIP_STEPS, 0, whole=True)
    _check_at_least("SOLVER.NON_FINITE.MAX_OVERFLOWS", solver.NON_FINITE.MAX_OVERFLOWS, 0, whole=True)
    _check_at_least("SOLVER.REFERENCE_WORLD_SIZE", solver.REFERENCE_WORLD_SIZE, 0, whole=True)
    _check_enum("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", solver.CLIP_GRADIENTS.CLIP_TYPE, ("value", "norm"))
    _check_at_least("MODEL.MIC.WATCH.STEPS", watch.STEPS, 0, whole=True)
    _check_at_least("MODEL.MIC.WATCH.ONE_CLASS_STEPS", watch.ONE_CLASS_STEPS, 0, whole=True)
    _check_at_least("MODEL.MIC.WATCH.BOXES_RATIO", watch.BOXES_RATIO, 0)
    _check_unit_interval("MODEL.MIC.WATCH.PIXEL_QUALITY", watch.PIXEL_QUALITY)


def _check_sequential_backward(cfg):
    own = "TORCHVISION" if cfg.MODEL.BACKBONE.NAME == "build_torchvision_fpn_backbone" else "RESNETS"
    norms = {key: cfg.MODEL[key].NORM for key in (own, "FPN")}
    trained = [key for key, norm in norms.items() if "BN" in norm and norm != "FrozenBN"]
    if cfg.SOLVER.SEQUENTIAL_BACKWARD and trained:
        raise ConfigError(
            f"SOLVER.SEQUENTIAL_BACKWARD is True, but MODEL.{trained[0]}.NORM is BatchNorm, whose statistics are those "
            "of the images that go through together: use FrozenBN or GN, or set it to False."
        )


def _check_color(color):
    for key in ("JITTER_PROB", "BLUR_PROB"):
        _check_unit_interval(f"MODEL.MIC.COLOR.{key}", color[key])
    # torchvision shifts the hue by at most half a turn
    if not 0 <= color.JITTER_STRENGTH <= 0.5:
        raise ConfigError(f"MODEL.MIC.COLOR.JITTER_STRENGTH is {color.JITTER_STRENGTH}: use a number in [0, 0.5].")
    low_high = tuple(color.BLUR_SIGMA)
    if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
        raise ConfigError(f"MODEL.MIC.COLOR.BLUR_SIGMA is {low_high}: use two numbers (low, high), 0 < low <= high.")


def _check_alignment(cfg):
    a, key = cfg.MODEL.MIC.ALIGNMENT, "MODEL.MIC.ALIGNMENT"
    _check_enum(f"{key}.VIEW", a.VIEW, ALIGNED_VIEWS)
    _check_enum(f"{key}.INSTANCE.REGIONS", a.INSTANCE.REGIONS, ALIGNED_REGIONS)
    _check_enum(f"{key}.SCHEDULE", a.SCHEDULE, REVERSAL_SCHEDULES)
    _check_at_least(f"{key}.RAMP_STEPS", a.RAMP_STEPS, 0, whole=True)
    for part in ("IMAGE", "INSTANCE", "CONSISTENCY"):
        _check_at_least(f"{key}.{part}.WEIGHT", a[part].WEIGHT, 0)
    for part in ("IMAGE", "INSTANCE"):
        _check_at_least(f"{key}.{part}.REVERSAL_WEIGHT", a[part].REVERSAL_WEIGHT, 0)
    _check_at_least(f"{key}.IMAGE.CHANNELS", a.IMAGE.CHANNELS, 1, whole=True)
    _check_at_least(f"{key}.INSTANCE.FC_DIM", a.INSTANCE.FC_DIM, 1, whole=True)
    _check_at_least(f"{key}.INSTANCE.REGIONS_PER_IMAGE", a.INSTANCE.REGIONS_PER_IMAGE, 0, whole=True)
    _check_unit_interval(f"{key}.INSTANCE.DROPOUT", a.INSTANCE.DROPOUT, right_open=True)
    enabled = [part for part in ("IMAGE", "INSTANCE", "CONSISTENCY") if a[part].ENABLED and a[part].WEIGHT]
    if "CONSISTENCY" in enabled and len(enabled) < 3:
        raise ConfigError(f"{key}.CONSISTENCY compares two classifiers: enable {key}.IMAGE and {key}.INSTANCE too.")
    if enabled and is_mic(cfg) and cfg.DATASETS.TRAIN and not cfg.DATASETS.TARGET:
        raise ConfigError(f"{key}.{enabled[0]} is enabled, but DATASETS.TARGET is empty: name the target's images.")


def _check_sem_seg(s):
    key = "MODEL.MIC.SEM_SEG"
    _check_unit_interval(f"{key}.PIXEL_THRESHOLD", s.PIXEL_THRESHOLD)
    _check_unit_interval(f"{key}.MASK.RATIO", s.MASK.RATIO, right_open=True)
    _check_at_least(f"{key}.MASK.BLOCK_SIZE", s.MASK.BLOCK_SIZE, 1, whole=True)
    for name in ("WEIGHT", "MIX_WEIGHT"):
        _check_at_least(f"{key}.{name}", s[name], 0)
    _check_margins(f"{key}.MARGINS", tuple(s.MARGINS))
    for name in ("IGNORE_TOP", "IGNORE_BOTTOM"):
        _check_at_least(f"{key}.{name}", s[name], 0, whole=True)
        if s[name]:
            logging.getLogger(__name__).warning(
                "%s.%s is an old key, in rows of the student's view, which random crops and several scales make wrong: "
                "use %s.MARGINS (top, bottom, left, right of the original image).", key, name, key,
            )  # fmt: skip


def _check_margins(key, margins):
    if len(margins) != 4 or not all(
        isinstance(m, (int, float)) and not isinstance(m, bool) and 0 <= m < float("inf") and (m < 1 or m == int(m))
        for m in margins
    ):
        raise ConfigError(
            f"{key} is {margins}: use four numbers (top, bottom, left, right), each a share in [0, 1) or a whole "
            "number of pixels."
        )
    for first, second in (margins[:2], margins[2:]):
        if first < 1 and second < 1 and first + second >= 1:
            raise ConfigError(f"{key} is {margins}: the shares {first} and {second} leave nothing of an image.")


def _check_classes_and_sets(cfg):
    mic = cfg.MODEL.MIC
    per_class = len(mic.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS)
    if per_class and per_class != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS has {per_class} values, but "
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}: give one a class, or ()."
        )
    for name, entry in cfg.DATASETS.DECLARED.items():
        classes = entry.get("SEM_SEG_CLASSES") if isinstance(entry, CN) else ()
        for text in (name, *(classes if isinstance(classes, (list, tuple)) else ())):
            if printable(text) != str(text):
                raise ConfigError(f"DATASETS.DECLARED.{name}: {text!r} has control characters in it: remove them.")
        if {"", ".", ".."} & set(re.split(r"[/\\]", str(name))):
            raise ConfigError(
                f"DATASETS.DECLARED.{name}: the name of a set becomes that of a folder for its results. It must not be "
                "a path with '..', '.' or a slash at an end."
            )
        known = {"JSON", "IMAGES", "SEM_SEG", "SEM_SEG_CLASSES"}
        if not isinstance(entry, CN) or not set(entry) <= known or not entry.get("IMAGES"):
            raise ConfigError(
                f"DATASETS.DECLARED.{name} must be a mapping with IMAGES (a folder) and, where the set is "
                "labelled, JSON (a COCO file), SEM_SEG (a folder) and SEM_SEG_CLASSES; "
                f"it is {dict(entry) if isinstance(entry, CN) else entry!r}."
            )
        if entry.get("SEM_SEG") and not entry.get("SEM_SEG_CLASSES"):
            raise ConfigError(
                f"DATASETS.DECLARED.{name}.SEM_SEG has no SEM_SEG_CLASSES: give a list of names, or 'cityscapes'."
            )


def _check_output_dir(folder):
    if not folder.strip() or "://" in folder or "\0" in folder:
        raise ConfigError(f"OUTPUT_DIR is {folder!r}: name a folder of this machine.")


def _check_unit_interval(key, value, right_open=False):
    if not 0 <= value <= 1 or (right_open and value == 1):
        raise ConfigError(f"{key} is {value}: use a number in [0, 1{')' if right_open else ']'}.")


def _check_at_least(key, value, least, whole=False):
    if not least <= value < float("inf") or (whole and value != int(value)):  # NaN is refused too
        raise ConfigError(f"{key} is {value}: use a {'whole ' if whole else ''}number of at least {least}.")


def _check_enum(key, value, allowed):
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}: use one of {', '.join(map(repr, allowed))}.")
