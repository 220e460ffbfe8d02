"""Checks of keys for keypoints that depend on other keys."""

from ..errors import ConfigError
from .label_kinds import box_keys, label_kinds, weights_regions
from .models import is_mic

COCO_KEYPOINTS = 17  # pycocotools has sigmas for these alone


def check_keypoint_keys(cfg):
    """
    Raises:
        ConfigError: where keypoints have a weight in L_M that cannot have an effect, or cannot be evaluated.
    """
    key, weight = "MODEL.MIC.CONSISTENCY.KEYPOINT_WEIGHT", cfg.MODEL.MIC.CONSISTENCY.KEYPOINT_WEIGHT
    if weight and is_mic(cfg) and not (cfg.MODEL.KEYPOINT_ON and weights_regions(cfg)):
        raise ConfigError(
            f"{key} is {weight}, which needs keypoints of an R-CNN without cascade: set MODEL.KEYPOINT_ON True with "
            "such a student, or the weight to 0."
        )
    wanted, sigmas = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS
    if predicts_keypoints(cfg) and cfg.DATASETS.TEST and len(sigmas) != wanted and (sigmas or wanted != COCO_KEYPOINTS):
        raise ConfigError(
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} values, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is "
            f"{wanted}: give one for each keypoint. [] has those of COCO's {COCO_KEYPOINTS} keypoints."
        )


def predicts_keypoints(cfg):
    """Whether the model predicts keypoints: ``MODEL.KEYPOINT_ON`` has no effect on detectors without RoI heads."""
    return cfg.MODEL.KEYPOINT_ON and "boxes" in label_kinds(cfg) and box_keys(cfg) is cfg.MODEL.ROI_HEADS
