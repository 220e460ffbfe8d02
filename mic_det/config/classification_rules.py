"""Checks of the keys of image classification that depend on other keys."""

from ..errors import ConfigError
from .label_kinds import label_kinds
from .models import has_labels, is_mic


def check_classification(cfg):
    """
    Raises:
        ConfigError: where a loss is set for a model or a training that it is not defined for; names the key.
    """
    mic, size, classes = cfg.MODEL.MIC, cfg.INPUT.IMAGE_CLASS, label_kinds(cfg) == ("image_class",)
    weights = {"MCC.WEIGHT": mic.MCC.WEIGHT, "CDAN.WEIGHT": mic.CDAN.WEIGHT, "SAM.RHO": mic.SAM.RHO}
    enabled = next((key for key, weight in weights.items() if weight), None)
    if enabled and is_mic(cfg) and not classes:
        raise ConfigError(
            f"MODEL.MIC.{enabled} is {weights[enabled]}, but MODEL.MIC.STUDENT {mic.STUDENT} is no image classifier: "
            "set it to 0, or use ImageClassifier."
        )
    if not classes:
        return
    if size.CROP > size.SIZE:
        raise ConfigError(
            f"INPUT.IMAGE_CLASS.CROP is {size.CROP}, but images are resized to INPUT.IMAGE_CLASS.SIZE {size.SIZE}: use "
            "a crop of at most this size."
        )
    if cfg.TEST.AUG.ENABLED:
        raise ConfigError("TEST.AUG.ENABLED is True, but it is for boxes: set it to False.")
    if is_mic(cfg):
        _check_losses(cfg, enabled)


def _check_losses(cfg, enabled):
    mic = cfg.MODEL.MIC
    if mic.CONSISTENCY.QUALITY not in ("teacher", "none"):
        raise ConfigError(
            f"MODEL.MIC.CONSISTENCY.QUALITY is {mic.CONSISTENCY.QUALITY!r}, which weights regions of an R-CNN: use "
            "'teacher' (the teacher's probability of the class) or 'none'."
        )
    if mic.CONSISTENCY.TARGETS != "hard":
        raise ConfigError(f"MODEL.MIC.CONSISTENCY.TARGETS is {mic.CONSISTENCY.TARGETS!r}: image classes need 'hard'.")
    if enabled in ("MCC.WEIGHT", "CDAN.WEIGHT") and has_labels(cfg) and not cfg.DATASETS.TARGET:
        raise ConfigError(f"MODEL.MIC.{enabled} is set, but DATASETS.TARGET is empty: name the target's images.")
    if mic.SAM.RHO and cfg.SOLVER.SEQUENTIAL_BACKWARD:
        raise ConfigError(
            "MODEL.MIC.SAM.RHO needs the gradient of all losses at once: set SOLVER.SEQUENTIAL_BACKWARD False."
        )
    if mic.SAM.RHO and cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16":
        raise ConfigError(
            "MODEL.MIC.SAM.RHO takes a gradient that is not scaled, which float16 may round to 0: set "
            "SOLVER.AMP.DTYPE bfloat16, or SOLVER.AMP.ENABLED False."
        )
