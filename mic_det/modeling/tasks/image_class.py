"""The task for the class of a whole image."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from detectron2.utils.events import get_event_storage

from ...utils.step_timer import record
from ..image_classifier import ImageClassifier, classes_of
from .base import Task


@dataclass
class PseudoClasses:
    """Pseudo-labels of N target images: N int64 scalars each in ``labels``, and their ``confidence`` (scalars)."""

    labels: list = field(default_factory=list)
    confidence: list = field(default_factory=list)


class ImageClassTask(Task):
    """The class of an image. The teacher's confidence weights each image (MIC, Sec. 3.3, for classification)."""

    name = "image_class"
    masked_apart = True  # in the published training, too: BatchNorm does not mix masked and whole images

    def __init__(self, quality="teacher"):
        """
        Args:
            quality (str): weight of a masked image: "teacher", the teacher's probability of its most probable class,
                or "none", 1. Images with true labels have the weight 1.
        """
        self.quality = quality

    @classmethod
    def from_config(cls, cfg):
        return cls(cfg.MODEL.MIC.CONSISTENCY.QUALITY)

    @classmethod
    def applies_to(cls, model):
        return isinstance(model, ImageClassifier)

    def num_classes(self, model):
        return model.classifier.out_features

    def classes_key(self, model):
        return "MODEL.IMAGE_CLASSIFIER.NUM_CLASSES"

    def truth(self, inputs, device):
        return list(classes_of(inputs, device))

    def supervised(self, student, view, truth):
        return {"loss_class": F.cross_entropy(student.logits(view.features), torch.stack(truth))}

    def pseudo_labels(self, model, view):
        with record("pseudo-labels"):
            return self.predict(model, view.features)

    def predict(self, model, features):
        """The most probable class of each image and its probability, as :class:`PseudoClasses`."""
        confidence, labels = model.logits(features).softmax(dim=1).max(dim=1)
        return PseudoClasses(list(labels), list(confidence))

    def no_pseudo_labels(self):
        return PseudoClasses()

    def log(self, pseudo, model, class_names):
        get_event_storage().put_scalar("pseudo/confidence", torch.stack(pseudo.confidence).mean())

    def consistency(self, student, view, pseudo, truth):
        labels = torch.stack(pseudo.labels + truth)
        losses = F.cross_entropy(student.logits(view.features), labels, reduction="none")
        if self.quality == "teacher":
            losses = losses * torch.stack(pseudo.confidence + [torch.ones_like(losses[0])] * len(truth))
        return {"loss_class": losses.mean()}
