"""Tasks: the part of a training step that depends on the kind of head."""

from .base import Task
from .image_class import ImageClassTask, PseudoClasses
from .rcnn import BoxTask, PseudoBoxes, RCNNTask
from .sem_seg import PseudoLabelMaps, SemSegTask
from .whole_model import WholeModelTask

__all__ = [
    "BoxTask", "ImageClassTask", "PseudoBoxes", "PseudoClasses", "PseudoLabelMaps", "RCNNTask", "SemSegTask", "Task",
    "WholeModelTask", "find_tasks",
]  # fmt: skip


def find_tasks(model):
    """The task classes for a model's heads.

    Raises:
        TypeError: where no task is for its heads.
    """
    found = [SemSegTask] if SemSegTask.applies_to(model) else []
    for task in (RCNNTask, WholeModelTask, ImageClassTask):
        if task.applies_to(model):
            return [*found, task]
    if not found or getattr(model, "roi_heads", None) is not None:
        raise TypeError(
            f"MODEL.MIC.STUDENT is {type(model).__name__}, whose heads are unknown to MIC: it wraps "
            "meta-architectures such as GeneralizedRCNN, RetinaNet, FCOS, PanopticFPN, SemanticSegmentor and "
            "ImageClassifier."
        )
    return found
