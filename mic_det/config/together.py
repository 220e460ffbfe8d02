"""Checks of a whole config, before anything is built or loaded: of each key alone, and of keys together."""

import logging
import re

from detectron2.config import CfgNode as CN

from ..errors import ConfigError
from ..utils.printable import printable
from .classification_rules import check_classification
from .detectron2_keys import RULES
from .keypoint_rules import check_keypoint_keys
from .keys import KEYS
from .label_kinds import classes_key, label_kinds, num_classes, weights_regions
from .models import HRDA_BACKBONE, HRDA_HEAD, VIT_BACKBONE, backbone_name, is_mic, student_architecture
from .renamed import RENAMED
from .tree import check_key, value_of

# Detectron2's keys that our own code reads. They are checked here for configs that skip check_detectron2_keys.
CHECKED_TOO = (
    "SOLVER.CHECKPOINT_PERIOD", "SOLVER.REFERENCE_WORLD_SIZE", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
)  # fmt: skip


def validate_mic_config(cfg):
    """Refuse settings that cannot work before anything is built or loaded.

    Args:
        cfg (CfgNode): a config with mic_det's keys.

    Raises:
        ConfigError: names the first wrong key, its value and what is allowed.
    """
    _check_names(cfg)
    for key in KEYS.values():
        check_key(cfg, key.name, key.check)
    for name in CHECKED_TOO:
        check_key(cfg, name, RULES[name])
    _check_alignment(cfg)
    for section in ("MODEL.MIC.MASK", "MODEL.MIC.SEM_SEG.MASK"):
        _check_patch_size(section, value_of(cfg, section))
    _check_erasing(cfg)
    _check_colour_transfer(cfg)
    _check_soft_targets(cfg.MODEL.MIC)
    _check_margins(cfg.MODEL.MIC.SEM_SEG)
    if student_architecture(cfg) == "PanopticFPN" and not cfg.MODEL.MASK_ON:
        raise ConfigError("PanopticFPN needs instance masks: set MODEL.MASK_ON True, or use BoxPanopticFPN.")
    weight = cfg.MODEL.MIC.CONSISTENCY.MASK_WEIGHT
    if weight and is_mic(cfg) and not (cfg.MODEL.MASK_ON and weights_regions(cfg)):
        raise ConfigError(
            f"MODEL.MIC.CONSISTENCY.MASK_WEIGHT is {weight}, which needs instance masks of an R-CNN without cascade: "
            "set MODEL.MASK_ON True with such a student, or the weight to 0."
        )
    check_keypoint_keys(cfg)
    _check_parts_of_another_labeller(cfg.MODEL.MIC)
    _check_sequential_backward(cfg)
    _check_rates(cfg.SOLVER)
    _check_vit(cfg)
    _check_segmentation(cfg)
    check_classification(cfg)
    _check_classes(cfg)
    _check_thresholds(cfg.MODEL.MIC.PSEUDO_BOXES)
    _check_custom_sets(cfg.DATASETS.CUSTOM)
    _check_output_dir(cfg.OUTPUT_DIR)


def _check_names(cfg):
    """Refuse attributes that were set by an old name: they would have no effect. Merging accepts old names."""
    missing = object()
    for old, new in RENAMED.items():
        if value_of(cfg, old, default=missing) is not missing:
            raise ConfigError(f"{old} is an old name: set {new} instead.")


def _check_sequential_backward(cfg):
    own = next((x for x in ("TORCHVISION", "TIMM") if x.lower() in backbone_name(cfg)), "RESNETS")
    norms = {key: cfg.MODEL[key].NORM for key in (own, "FPN")}
    trained = [key for key, norm in norms.items() if "BN" in norm and norm != "FrozenBN"]
    if cfg.SOLVER.SEQUENTIAL_BACKWARD and trained:
        raise ConfigError(
            f"SOLVER.SEQUENTIAL_BACKWARD is True, but MODEL.{trained[0]}.NORM is BatchNorm, whose statistics depend on "
            "the images that are processed together: use FrozenBN or GN, or set it to False."
        )


def _check_rates(s):
    if s.HEAD_LR_FACTOR != 1 and s.BIAS_LR_FACTOR != 1:
        raise ConfigError(
            f"SOLVER.HEAD_LR_FACTOR is {s.HEAD_LR_FACTOR} and SOLVER.BIAS_LR_FACTOR {s.BIAS_LR_FACTOR}: biases of the "
            "head would get one of the two alone. Set one of them to 1.0."
        )


def _check_vit(cfg):
    s, vit, is_vit = cfg.SOLVER, cfg.MODEL.VIT, backbone_name(cfg) == VIT_BACKBONE
    if s.LAYER_LR_DECAY != 1 and not (is_vit and s.OPTIMIZER == "AdamW"):
        raise ConfigError(
            f"SOLVER.LAYER_LR_DECAY is {s.LAYER_LR_DECAY}, but MODEL.BACKBONE.NAME is {backbone_name(cfg)} and "
            f"SOLVER.OPTIMIZER {s.OPTIMIZER}: it is for {VIT_BACKBONE} with AdamW. Set it to 1.0 otherwise."
        )
    if not is_vit:
        return
    if vit.GLOBAL_BLOCKS and vit.GLOBAL_BLOCKS[-1] >= vit.DEPTH:
        raise ConfigError(
            f"MODEL.VIT.GLOBAL_BLOCKS is {tuple(vit.GLOBAL_BLOCKS)}, but MODEL.VIT.DEPTH is {vit.DEPTH}: name blocks "
            f"from 0 to {vit.DEPTH - 1}."
        )
    head, rest = divmod(vit.EMBED_DIM, vit.NUM_HEADS)
    if rest or (vit.POSITIONS == "rotary" and head % 4):
        raise ConfigError(
            f"MODEL.VIT.EMBED_DIM is {vit.EMBED_DIM} and MODEL.VIT.NUM_HEADS {vit.NUM_HEADS}: the channels of a head "
            "must be a whole number, and a multiple of 4 with MODEL.VIT.POSITIONS rotary."
        )


def _check_segmentation(cfg):
    kinds, model = label_kinds(cfg), cfg.MODEL
    if model.MIC.MASK.DOMAINS == "separate" and is_mic(cfg) and kinds != ("pixels",):
        raise ConfigError(
            "MODEL.MIC.MASK.DOMAINS is 'separate', which is for label maps without boxes, but the student is "
            f"{model.MIC.STUDENT}: use 'both'."
        )
    if model.MIC.FEATURE_DISTANCE.WEIGHT and is_mic(cfg) and "pixels" not in kinds:
        raise ConfigError(
            f"MODEL.MIC.FEATURE_DISTANCE needs label maps, but the student {model.MIC.STUDENT} has no segmentation "
            "head: set its WEIGHT to 0, or use a SemanticSegmentor."
        )
    two_scales = model.BACKBONE.NAME == HRDA_BACKBONE
    if "pixels" in kinds and two_scales != (model.SEM_SEG_HEAD.NAME == HRDA_HEAD):
        raise ConfigError(
            f"MODEL.BACKBONE.NAME is {model.BACKBONE.NAME} and MODEL.SEM_SEG_HEAD.NAME {model.SEM_SEG_HEAD.NAME}: "
            f"{HRDA_BACKBONE} and {HRDA_HEAD} belong together."
        )
    if two_scales and kinds != ("pixels",):
        raise ConfigError(
            f"MODEL.BACKBONE.NAME is {HRDA_BACKBONE}, whose features are of two scales: use it with a "
            f"SemanticSegmentor, not with {student_architecture(cfg)}, which has boxes."
        )
    if two_scales and (model.HRDA.BACKBONE == HRDA_BACKBONE or model.HRDA.HEAD == HRDA_HEAD):
        raise ConfigError(
            f"MODEL.HRDA.BACKBONE and MODEL.HRDA.HEAD are the parts of one scale: use others than {HRDA_BACKBONE} and "
            f"{HRDA_HEAD}."
        )


def _check_alignment(cfg):
    a, key = cfg.MODEL.MIC.ALIGNMENT, "MODEL.MIC.ALIGNMENT"
    enabled = [part for part in ("IMAGE", "INSTANCE", "AGREEMENT") if a[part].ENABLED and a[part].WEIGHT]
    if "AGREEMENT" in enabled and len(enabled) < 3:
        raise ConfigError(f"{key}.AGREEMENT compares two classifiers: enable {key}.IMAGE and {key}.INSTANCE too.")
    if enabled and is_mic(cfg) and cfg.DATASETS.TRAIN and not cfg.DATASETS.TARGET:
        raise ConfigError(f"{key}.{enabled[0]} is enabled, but DATASETS.TARGET is empty: name the target's images.")


def _check_patch_size(section, mask):
    share = KEYS[f"{section}.BLOCK_SHARE"].default
    if mask.BLOCK_SIZE and mask.BLOCK_SHARE != share:
        raise ConfigError(
            f"{section}.BLOCK_SIZE is {mask.BLOCK_SIZE} pixels, so BLOCK_SHARE {mask.BLOCK_SHARE} has no effect: "
            f"set BLOCK_SIZE 0 to use the share, or BLOCK_SHARE {share} (its default) to use the pixels."
        )


def _check_erasing(cfg):
    key, strong, alignment = "MODEL.MIC.STRONG_AUG", cfg.MODEL.MIC.STRONG_AUG, cfg.MODEL.MIC.ALIGNMENT
    if strong.ERASE_PROB and not strong.ON_SOURCE:
        raise ConfigError(
            f"{key}.ERASE_PROB is {strong.ERASE_PROB}, but {key}.ON_SOURCE is False, and only source images are "
            "erased: set ON_SOURCE True, or ERASE_PROB 0.0."
        )
    if strong.ERASE_PROB and (alignment.IMAGE.ENABLED or alignment.INSTANCE.ENABLED):
        raise ConfigError(
            f"{key}.ERASE_PROB is {strong.ERASE_PROB}, but only source images have erased parts, so they would reveal "
            "the domain to the classifiers of MODEL.MIC.ALIGNMENT: set ERASE_PROB 0.0."
        )


def _check_colour_transfer(cfg):
    key, prob = "MODEL.MIC.STRONG_AUG.COLOR_TRANSFER_PROB", cfg.MODEL.MIC.STRONG_AUG.COLOR_TRANSFER_PROB
    empty = [domain for domain in ("TRAIN", "TARGET") if not cfg.DATASETS[domain]]
    if prob and is_mic(cfg) and len(empty) == 1:
        raise ConfigError(
            f"{key} is {prob}, but DATASETS.{empty[0]} is empty: source images get the colours of target images. "
            f"Set {key} 0.0, or name both data sets."
        )


def _check_parts_of_another_labeller(mic):
    for name, parts in (("MASK_WEIGHT", "masks"), ("KEYPOINT_WEIGHT", "keypoints")):
        if mic.LABELLER.JSON and mic.CONSISTENCY[name]:
            raise ConfigError(
                f"MODEL.MIC.CONSISTENCY.{name} is {mic.CONSISTENCY[name]}, but the boxes of MODEL.MIC.LABELLER have no "
                f"{parts}: set the weight to 0, or MODEL.MIC.LABELLER.JSON to ''."
            )


def _check_soft_targets(mic):
    c, size, key = mic.CONSISTENCY, mic.TEACHER.INPUT_SIZE, "MODEL.MIC.CONSISTENCY"
    if c.TARGETS != "soft":
        return
    if mic.PSEUDO_BOXES.IGNORE_SCORE:
        raise ConfigError(
            f"MODEL.MIC.PSEUDO_BOXES.IGNORE_SCORE is {mic.PSEUDO_BOXES.IGNORE_SCORE}, but with {key}.TARGETS 'soft' no "
            "region has the label background: the teacher's probabilities are the target. Set it to 0."
        )
    if c.QUALITY not in ("teacher", "none"):
        raise ConfigError(
            f"{key}.QUALITY is {c.QUALITY!r}, but soft targets ({key}.TARGETS) have no quality weight: use 'teacher' "
            "or 'none', which have the same effect."
        )
    if size and (c.RPN_CLS_WEIGHT or c.RPN_BOX_REG_WEIGHT):
        raise ConfigError(
            f"MODEL.MIC.TEACHER.INPUT_SIZE is {size}, but {key}.TARGETS 'soft' compares teacher and student on the "
            f"same anchors, and images of another size have other anchors: set it to 0, or {key}.RPN_CLS_WEIGHT and "
            f"{key}.RPN_BOX_REG_WEIGHT to 0, or use {key}.TARGETS 'hard'."
        )


def _check_margins(s):
    key, margins = "MODEL.MIC.SEM_SEG.MARGINS", tuple(s.MARGINS)
    for first, second in (margins[:2], margins[2:]):
        if first < 1 and second < 1 and first + second >= 1:
            raise ConfigError(f"{key} is {margins}: the shares {first} and {second} leave nothing of an image.")
    for name in ("IGNORE_TOP", "IGNORE_BOTTOM"):
        if s[name]:
            logging.getLogger(__name__).warning(
                "MODEL.MIC.SEM_SEG.%s is an old key. It counts rows of the student's view, which are wrong with random "
                "crops or several scales. Use %s (top, bottom, left, right of the original image).", name, key,
            )  # fmt: skip


def _check_classes(cfg):
    p = cfg.MODEL.MIC.PSEUDO_BOXES
    if p.IGNORE_SCORE >= max(p.SCORE_THRESHOLD_PER_CLASS or [p.SCORE_THRESHOLD]) and p.IGNORE_SCORE:
        raise ConfigError(
            f"MODEL.MIC.PSEUDO_BOXES.IGNORE_SCORE is {p.IGNORE_SCORE}, but detections with a score of at least "
            "SCORE_THRESHOLD are pseudo-boxes: use a smaller value, or 0 for none."
        )
    per_class = len(p.SCORE_THRESHOLD_PER_CLASS)
    if per_class and per_class != num_classes(cfg):
        raise ConfigError(
            f"MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD_PER_CLASS has {per_class} values, but "
            f"{classes_key(cfg)} is {num_classes(cfg)}: give one per class, or ()."
        )


def _check_thresholds(p):
    key = "MODEL.MIC.PSEUDO_BOXES"
    name = "SCORE_THRESHOLD_PER_CLASS" if p.SCORE_THRESHOLD_PER_CLASS else "SCORE_THRESHOLD"
    low, high = p.ADAPT_BOUNDS
    if p.ADAPT != "none" and not all(low <= x <= high for x in p.SCORE_THRESHOLD_PER_CLASS or [p.SCORE_THRESHOLD]):
        raise ConfigError(
            f"{key}.{name} is {p[name]}, but {key}.ADAPT {p.ADAPT} starts there and keeps thresholds in {[low, high]}: "
            "change it, or ADAPT_BOUNDS."
        )


def _check_custom_sets(sets):
    for name, entry in sets.items():
        key = f"DATASETS.CUSTOM.{name}"
        classes = entry.get("SEM_SEG_CLASSES") if isinstance(entry, CN) else ()
        for text in (name, *(classes if isinstance(classes, (list, tuple)) else ())):
            if printable(text) != str(text):
                raise ConfigError(f"{key}: {text!r} has control characters in it: remove them.")
        if {"", ".", ".."} & set(re.split(r"[/\\]", str(name))):
            raise ConfigError(
                f"{key}: the name of a set is also the name of a folder for its results. It must not be a path with "
                "'..', '.' or a slash at an end."
            )
        known = {"JSON", "IMAGES", "SEM_SEG", "SEM_SEG_CLASSES", "CLASS_FOLDERS"}
        if not isinstance(entry, CN) or not set(entry) <= known or not entry.get("IMAGES"):
            raise ConfigError(
                f"{key} must be a mapping with IMAGES (a folder) and, where the set is "
                "labelled, JSON (a COCO file), SEM_SEG (a folder) and SEM_SEG_CLASSES, or CLASS_FOLDERS; "
                f"it is {dict(entry) if isinstance(entry, CN) else entry!r}."
            )
        if entry.get("CLASS_FOLDERS") and (entry.get("JSON") or entry.get("SEM_SEG")):
            raise ConfigError(
                f"{key}: with CLASS_FOLDERS, the sub-folders of IMAGES are the labels: leave out JSON and SEM_SEG."
            )
        if entry.get("SEM_SEG") and not entry.get("SEM_SEG_CLASSES"):
            raise ConfigError(f"{key}.SEM_SEG has no SEM_SEG_CLASSES: give a list of names, or 'cityscapes'.")


def _check_output_dir(folder):
    if not folder.strip() or "://" in folder or "\0" in folder:
        raise ConfigError(f"OUTPUT_DIR is {folder!r}: name a folder of this machine.")
