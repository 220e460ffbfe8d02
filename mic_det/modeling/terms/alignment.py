"""L_T of a detector: adversarial alignment of the domains' features (SADA)."""

import torch
from detectron2.utils.events import get_event_storage

from ..domain_alignment import DomainAlignment
from ..regions import Regions, unlabelled_regions
from .base import Term


class Alignment(Term):
    """The losses of :class:`DomainAlignment` on whole images; logs the classifiers' accuracies.

    Masked views are not aligned: source images are not hidden, so the patches would give the domain away.
    """

    name = "alignment"

    def __init__(self, module):
        """
        Args:
            module (DomainAlignment): the domain classifiers.
        """
        self.module = module

    @classmethod
    def from_config(cls, cfg, student):
        """None where ``MODEL.MIC.ALIGNMENT`` enables no part."""
        module = DomainAlignment.from_config(cfg, student)
        return module and cls(module)

    def views(self, step):
        return ("source", "target")

    def losses(self, model, views, step):
        seen = views[self.views(step)]
        regions = self._regions(model.student, views, seen) if self.module.instance is not None else None
        is_target = [i >= len(step.source) for i in range(len(seen.images))]
        losses, accuracies = self.module(seen.images.image_sizes, seen.features, is_target, regions, step.number)
        values = torch.stack(list(accuracies.values())).tolist()  # one transfer for all
        for name, value in zip(accuracies, values):
            if value == value:  # NaN: no region of one domain on that level
                get_event_storage().put_scalar(f"align/{name}", value)
        return {f"align/{k}": v for k, v in losses.items()}

    def _regions(self, student, views, seen):
        """Regions of all images: proposals drawn at random, but in the source those of L_S where it shares them."""
        number = self.module.regions_per_image
        shared = views["source"].regions
        if shared is None:
            return unlabelled_regions(student, seen.images, seen.features, number)
        if "target" not in views:
            return shared
        target = views["target"]
        return Regions.join([shared, unlabelled_regions(student, target.images, target.features, number)])
