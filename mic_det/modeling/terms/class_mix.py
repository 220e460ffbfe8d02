"""L_T of a segmentation: ClassMix self-training on target images (DACS, Tranheden et al., WACV 2021)."""

from ..pixel_labels import pixel_loss
from .base import Term


class ClassMix(Term):
    """Cross entropy on target images that half of a source image's classes are pasted onto."""

    name = "mix"

    def __init__(self, weight=1.0):
        """
        Args:
            weight (float): of the loss.
        """
        self.weight = weight

    @classmethod
    def from_config(cls, cfg):
        return cls(cfg.MODEL.MIC.SEM_SEG.MIX_WEIGHT)

    def active(self, step):
        return bool(step.target and step.ramp)

    def needs_teacher(self, step):
        return True

    def views(self, step):
        return ("mixed_target",)

    def losses(self, model, views, step):
        view = views["mixed_target"]
        loss = pixel_loss(model.student.sem_seg_head, view.features, step.mixed_labels)
        return {"mix/loss_sem_seg": loss * self.weight}
