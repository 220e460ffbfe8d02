"""How each kind of label is evaluated."""

from ..config.keypoint_rules import predicts_keypoints
from ..config.label_kinds import label_kinds
from .coco import DetectionEvaluator
from .image_class import ImageClassEvaluator
from .keypoints import KeypointEvaluator
from .panoptic import PanopticQuality
from .sem_seg import LabelMapEvaluator
from .submission import SubmissionFiles, is_submission

EVALUATORS = {"boxes": DetectionEvaluator, "pixels": LabelMapEvaluator, "image_class": ImageClassEvaluator}
# The one number that says most
METRICS = {"boxes": "AP50", "pixels": "mIoU", "image_class": "accuracy"}


def make_evaluators(cfg, dataset_name, output_dir=None, panoptic=False):
    """Evaluators of what the model predicts: a list.

    Args:
        output_dir (str): where the predictions are written; None = nowhere.
        panoptic (bool): also that of instance masks and pixels together, where the model has both.
    """
    kinds = label_kinds(cfg)
    if is_submission(dataset_name):
        return [SubmissionFiles(dataset_name, output_dir)]
    more = {"boxes": _keypoint_arguments(cfg)}
    evaluators = [EVALUATORS[kind](dataset_name, output_dir=output_dir, **more.get(kind, {})) for kind in kinds]
    if more["boxes"]:
        evaluators.append(KeypointEvaluator(dataset_name, cfg.TEST.KEYPOINT_PCK_SHARE))
    if panoptic and len(kinds) > 1 and cfg.MODEL.MASK_ON:
        least = cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH
        evaluators.append(PanopticQuality(dataset_name, min_score=least))
    return evaluators


def _keypoint_arguments(cfg):
    """Arguments of :class:`DetectionEvaluator` for a model with keypoints; none for others."""
    if not predicts_keypoints(cfg):
        return {}
    tasks = ("bbox", *(["segm"] if cfg.MODEL.MASK_ON else []), "keypoints")
    return {"tasks": tasks, "kpt_oks_sigmas": tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS)}
