"""The task for label maps of a semantic segmentation head."""

from dataclasses import dataclass, field

import torch
from detectron2.utils.events import get_event_storage

from ...config.label_kinds import num_classes
from ...utils.step_timer import record
from ..class_shares import ClassShares
from ..pixel_labels import (
    PixelLabels,
    SemSegSettings,
    pixel_loss,
    teacher_pixel_labels,
)
from .base import Task

# Attributes of a head that losses and pseudo-labels need: for logits, their stride, and the loss
HEAD_NEEDS = ("layers", "predictor", "common_stride", "ignore_value", "loss_weight")


@dataclass
class PseudoLabelMaps:
    """Pseudo-labels of N target images: ``pixels`` (N ``PixelLabels``) and ``quality``, the q of each image.

    ``mean_probs`` are N tensors (K,), the teacher's mean probabilities where the task has :class:`ClassShares`.
    """

    pixels: list = field(default_factory=list)
    quality: list = field(default_factory=list)
    mean_probs: list = field(default_factory=list)

    def first(self, count):
        """Those of the first images."""
        return PseudoLabelMaps(self.pixels[:count], self.quality[:count], self.mean_probs[:count])


class SemSegTask(Task):
    """A segmentation head: pixel labels with one quality weight per image (MIC, Eq. 6-9)."""

    name = "pixels"

    def __init__(self, settings=None, shares=None):
        """
        Args:
            settings (SemSegSettings): settings of pseudo-labels.
            shares (ClassShares): corrects the teacher's shares of classes; None = they stay as they are.
        """
        self.settings = settings or SemSegSettings()
        self.module = shares

    @classmethod
    def from_config(cls, cfg):
        s = cfg.MODEL.MIC.SEM_SEG
        settings = SemSegSettings(s.PIXEL_THRESHOLD, s.IGNORE_TOP, s.IGNORE_BOTTOM, any(s.MARGINS))
        shares = None
        if s.MATCH_SOURCE_SHARES:
            ignored = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
            shares = ClassShares(num_classes(cfg, cls.name), s.MATCH_SOURCE_SHARES, ignore_value=ignored)
        return cls(settings, shares)

    @classmethod
    def applies_to(cls, model):
        return getattr(model, "sem_seg_head", None) is not None

    def check(self, model):
        missing = [x for x in HEAD_NEEDS if not hasattr(model.sem_seg_head, x)]
        if missing:
            raise TypeError(
                f"MODEL.SEM_SEG_HEAD.NAME is {type(model.sem_seg_head).__name__}, which has no {missing[0]}: use a "
                f"head with {', '.join(HEAD_NEEDS)}, such as SemSegFPNHead, DAFormerHead and HRDAHead."
            )

    def num_classes(self, model):
        return model.sem_seg_head.predictor.out_channels

    def classes_key(self, model):
        return "MODEL.SEM_SEG_HEAD.NUM_CLASSES"

    def truth(self, inputs, device):
        return [PixelLabels.of_truth(x["sem_seg"].to(device)) for x in inputs]

    def supervised(self, student, view, truth):
        # 0 for a batch without a labelled pixel; Detectron2's own loss is NaN there
        return {"loss_sem_seg": pixel_loss(student.sem_seg_head, view.features, truth)}

    def check_inputs(self, target):
        if self.settings.margins and any("valid_pixels" not in x for x in target):
            raise ValueError(
                'a target image has no "valid_pixels", which MODEL.MIC.SEM_SEG.MARGINS needs: map it with DomainMapper.'
            )

    def pseudo_labels(self, model, view):
        with record("pseudo-labels"):
            return PseudoLabelMaps(
                *teacher_pixel_labels(
                    model.sem_seg_head,
                    view.features,
                    view.images.image_sizes,
                    view.sizes,
                    self.settings,
                    [x.get("valid_pixels") for x in view.inputs],
                    self.module,
                )  # fmt: skip
            )

    def follow(self, pseudo, truth):
        if self.module is not None:
            self.module.observe(torch.stack(pseudo.mean_probs), [x.labels for x in truth])

    def no_pseudo_labels(self):
        return PseudoLabelMaps()

    def log(self, pseudo, model, class_names):
        get_event_storage().put_scalar("pseudo/pixel_quality", torch.stack(pseudo.quality).mean())

    def consistency(self, student, view, pseudo, truth):
        return {"loss_sem_seg": pixel_loss(student.sem_seg_head, view.features, pseudo.pixels + truth)}
