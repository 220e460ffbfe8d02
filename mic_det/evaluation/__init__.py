"""Detectron2 evaluators of boxes, label maps and pseudo-labels."""

from typing import TYPE_CHECKING

from ..utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from .coco import DetectionEvaluator
    from .sem_seg import LabelMapEvaluator

__all__ = ["DetectionEvaluator", "LabelMapEvaluator"]

__getattr__, __dir__ = lazy_names(__name__, {"DetectionEvaluator": ".coco", "LabelMapEvaluator": ".sem_seg"})
