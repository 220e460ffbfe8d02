"""Which models MICRCNN can wrap."""

from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.cascade_rcnn import CascadeROIHeads

from ..config import ConfigError


def check_pair(student, teacher):
    """Raise where the masked losses are not defined for a student and teacher, or the two have other classes.

    Raises:
        TypeError: names the part that is missing or of an unknown kind.
        ConfigError: names the key that the two differ in.
    """
    classes = []
    for model in (student, teacher):
        has_boxes = getattr(model, "roi_heads", None) is not None
        has_sem_seg = getattr(model, "sem_seg_head", None) is not None
        parts = ("backbone", *(("proposal_generator", "preprocess_image") if has_boxes else ()))
        missing = [part for part in parts if getattr(model, part, None) is None]
        if missing or not (has_boxes or has_sem_seg):
            raise TypeError(
                f"MODEL.MIC.STUDENT is {type(model).__name__}, which has no {(missing or ['roi_heads'])[0]}: MICRCNN "
                "wraps meta-architectures such as GeneralizedRCNN, PanopticFPN and SemanticSegmentor."
            )
        if has_boxes:
            _check_roi_heads(model.roi_heads)
        if has_sem_seg and not isinstance(model.sem_seg_head, SemSegFPNHead):
            raise TypeError(
                f"MODEL.SEM_SEG_HEAD.NAME is {type(model.sem_seg_head).__name__}: MICRCNN knows SemSegFPNHead."
            )
        classes.append(
            (model.roi_heads.num_classes if has_boxes else 0,
             model.sem_seg_head.predictor.out_channels if has_sem_seg else 0)
        )  # fmt: skip
    for i, key in enumerate(("ROI_HEADS", "SEM_SEG_HEAD")):
        if classes[0][i] != classes[1][i]:
            raise ConfigError(
                f"the student has {classes[0][i]} classes and the teacher {classes[1][i]}: "
                f"both must be built with the same MODEL.{key}.NUM_CLASSES."
            )


def _check_roi_heads(roi_heads):
    if not isinstance(roi_heads, (StandardROIHeads, Res5ROIHeads)) or isinstance(roi_heads, CascadeROIHeads):
        raise TypeError(
            f"MODEL.ROI_HEADS.NAME is {type(roi_heads).__name__}: MICRCNN knows StandardROIHeads and Res5ROIHeads."
        )
    if getattr(roi_heads.box_predictor, "use_sigmoid_ce", False):
        raise TypeError("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE must be False: MICRCNN's loss is softmax cross entropy.")
