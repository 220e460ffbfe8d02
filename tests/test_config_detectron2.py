"""Mistakes in Detectron2's own keys: one line with the key, the value and what is allowed."""

import ast

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import build_detection_train_loader
from detectron2.solver import build_lr_scheduler, build_optimizer

from mic_det.config.detectron2_keys import RULES
from mic_det.engine.setup import load_config
from mic_det.errors import ConfigError

WRONG = [
    ("SOLVER.STEPS", "(400, 200)", "each larger than the one before"),
    ("SOLVER.STEPS", "(200, 200)", "each larger than the one before"),
    ("SOLVER.STEPS", "('a',)", "whole number"),
    ("SOLVER.STEPS", "(0.5,)", "whole number"),
    ("SOLVER.WEIGHT_DECAY", "-0.1", "of at least 0"),
    ("SOLVER.WEIGHT_DECAY_NORM", "-1e-9", "of at least 0"),
    ("SOLVER.WEIGHT_DECAY_BIAS", "-1.0", "null or a number"),
    ("SOLVER.MOMENTUM", "1.0", "[0, 1)"),
    ("SOLVER.MOMENTUM", "-0.1", "[0, 1)"),
    ("SOLVER.BASE_LR", "-1.0", "of at least 0"),
    ("SOLVER.GAMMA", "0.0", "above 0"),
    ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultistepLR", "'WarmupMultiStepLR', 'WarmupCosineLR'"),
    ("SOLVER.WARMUP_METHOD", "linaer", "'constant', 'linear'"),
    ("SOLVER.WARMUP_ITERS", "-5", "of at least 0"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "values", "'value', 'norm'"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.0", "above 0"),
    ("SEED", str(2**32), "below"),
    ("SEED", str(10**30), "below"),
    ("DATALOADER.SAMPLER_TRAIN", "RandomSampler", "'TrainingSampler', 'RepeatFactorTrainingSampler'"),
    ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler", "'TrainingSampler'"),  # whose key is not there
    ("DATALOADER.NUM_WORKERS", "-1", "of at least 0"),
    ("DATALOADER.WORKER_TIMEOUT", "-1", "of at least 0"),
    ("DATALOADER.REPEAT_THRESHOLD", "-0.5", "of at least 0"),
    ("INPUT.MASK_FORMAT", "rle", "'polygon', 'bitmask'"),
    ("INPUT.RANDOM_FLIP", "both", "'none', 'horizontal', 'vertical'"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "any", "'choice', 'range'"),
    ("INPUT.CROP.TYPE", "random", "'relative', 'relative_range'"),
    ("INPUT.CROP.SIZE", "[0.5]", "2 values"),
    ("INPUT.FORMAT", "GBR", "'RGB', 'BGR'"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[-32]]", "above 0"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[]]", "list of values"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[32, 64]", "list of values"),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.5, 0.0]]", "above 0"),
    ("MODEL.ANCHOR_GENERATOR.OFFSET", "1.0", "[0, 1)"),
    ("MODEL.ANCHOR_GENERATOR.NAME", "Anchors", "DefaultAnchorGenerator"),
    ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "0", "of at least 1"),
    ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "0", "of at least 1"),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "RoIAlign", "'ROIAlign'"),
    ("MODEL.ROI_BOX_HEAD.NAME", "NoHead", "FastRCNNConvFCHead"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", "(10.0, 10.0, 5.0)", "4 values"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "l2", "'smooth_l1', 'giou'"),
    ("MODEL.RPN.HEAD_NAME", "RPNHead", "StandardRPNHead"),
    ("MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]", "each larger"),
    ("MODEL.RPN.IOU_THRESHOLDS", "[0.3, 1.7]", "[0, 1]"),
    ("MODEL.RPN.IOU_LABELS", "[0, 1]", "one more than the 2 values of MODEL.RPN.IOU_THRESHOLDS"),
    ("MODEL.RPN.IOU_LABELS", "[0, 2, 1]", "-1, 0, 1"),
    ("MODEL.RPN.POSITIVE_FRACTION", "1.5", "[0, 1]"),
    ("MODEL.RPN.NMS_THRESH", "-0.1", "[0, 1]"),
    ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "0", "of at least 1"),
    ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.5", "[0, 1]"),
    ("MODEL.ROI_HEADS.NMS_THRESH_TEST", "2.0", "[0, 1]"),
    ("MODEL.RESNETS.NORM", "BatchNorm", "'FrozenBN'"),
    ("MODEL.RESNETS.RES5_DILATION", "3", "1, 2"),
    ("MODEL.FPN.FUSE_TYPE", "mean", "'sum', 'avg'"),
    ("MODEL.FPN.OUT_CHANNELS", "0", "of at least 1"),
    ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "300", "at most 255"),
    ("MODEL.SEM_SEG_HEAD.NAME", "Head", "SemSegFPNHead"),
    ("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", "-1.0", "of at least 0"),
    ("MODEL.RETINANET.PRIOR_PROB", "0.0", "(0, 1)"),
    ("MODEL.RETINANET.NUM_CONVS", "0", "at least 1"),
    ("MODEL.RETINANET.FOCAL_LOSS_ALPHA", "1.5", "[0, 1]"),
    ("MODEL.RETINANET.FOCAL_LOSS_GAMMA", "-1.0", "at least 0"),
    ("TEST.DETECTIONS_PER_IMAGE", "0", "of at least 1"),
    ("TEST.AUG.MIN_SIZES", "()", "list of values"),
]


@pytest.mark.parametrize("key, value, words", WRONG)
def test_a_mistake_is_told_with_key_value_and_what_is_allowed(key, value, words):
    with pytest.raises(ConfigError) as caught:
        load_config("", [key, value])
    message = str(caught.value)
    assert message.startswith(f"{key} is ") and words in message and "\n" not in message
    assert f" is {shown(value)}" in message


def shown(value):
    """As Python shows what the text stands for; tuples as lists, as YAML knows no others."""
    try:
        value = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return repr(value)
    return repr(list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    "opts, words",
    [
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR", 0.0], "SOLVER.BASE_LR is 0.0"),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 1.0], "SOLVER.BASE_LR_END 1.0"),
        (["SOLVER.NESTEROV", True, "SOLVER.MOMENTUM", 0.0], "SOLVER.MOMENTUM is 0"),
        (["INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [300.0, 300.0]], "shares of the image"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], "two sizes"),
    ],
)
def test_keys_that_do_not_go_together(opts, words):
    with pytest.raises(ConfigError, match=words):
        load_config("", opts)


def test_rules_are_of_keys_that_exist_and_fit_the_defaults_of_detectron2():
    cfg = load_config()
    for key, rule in RULES.items():
        node = cfg
        for part in key.split("."):
            node = node[part]
        assert rule.allows(node), key


@pytest.mark.parametrize(
    "opts",
    [
        ["SOLVER.STEPS", ()],
        ["SOLVER.STEPS", [100, 200]],
        ["SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", "SOLVER.NUM_DECAYS", 2],
        ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.WARMUP_METHOD", "constant"],
        ["SOLVER.NESTEROV", True, "SOLVER.WEIGHT_DECAY_BIAS", 0.0],
        ["SEED", 2**31],
    ],
)
def test_what_is_allowed_is_built_by_detectron2(opts):
    cfg = load_config("", opts)
    optimizer = build_optimizer(cfg, torch.nn.Linear(2, 2))
    scheduler = build_lr_scheduler(cfg, optimizer)
    optimizer.step()
    scheduler.step()


@pytest.mark.parametrize("name", ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"])
def test_samplers_are_those_that_detectron2_makes_of_these_keys(name):
    """An independent answer: Detectron2 makes the sampler, or fails for want of the key."""
    cfg = get_cfg()
    cfg.DATALOADER.SAMPLER_TRAIN = name
    dicts = [{"annotations": [{"category_id": 0}]}]
    try:
        build_detection_train_loader.from_config(cfg, dataset=dicts, mapper=lambda d: d)
        works = True
    except AttributeError:
        works = False
    try:
        load_config("", ["DATALOADER.SAMPLER_TRAIN", name])
        allowed = True
    except ConfigError:
        allowed = False
    assert works == allowed
