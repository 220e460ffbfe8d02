"""L_T of a detector: adversarial alignment of the domains' features (SADA)."""

import torch
from detectron2.utils.events import get_event_storage

from ..alignment import DomainAlignment
from ..regions import Regions, unlabelled_regions
from .base import Term


class Alignment(Term):
    """The losses of :class:`DomainAlignment` on source and target views; logs the classifiers' accuracies."""

    name = "alignment"

    def __init__(self, module):
        """
        Args:
            module (DomainAlignment): the domain classifiers.
        """
        self.module = module
        self.target_views = (("target",) if module.sees_whole else ()) + (
            ("masked_target",) if module.sees_masked else ()
        )

    @classmethod
    def from_config(cls, cfg, student):
        """None where ``MODEL.MIC.ALIGNMENT`` enables no part."""
        module = DomainAlignment.from_config(cfg, student)
        return module and cls(module)

    def views(self, step):
        return ("source", *self.target_views)

    def losses(self, model, views, step):
        names = self.views(step)
        seen = views[names]
        regions = self._regions(model.student, views, names) if self.module.instance is not None else None
        is_target = [i >= len(step.source) for i in range(len(seen.images))]
        losses, accuracies = self.module(seen.images.image_sizes, seen.features, is_target, regions, step.number)
        values = torch.stack(list(accuracies.values())).tolist()  # one transfer for all
        for name, value in zip(accuracies, values):
            if value == value:  # NaN: no region of one domain on that level
                get_event_storage().put_scalar(f"align/{name}", value)
        return {f"align/{k}": v for k, v in losses.items()}

    def _regions(self, student, views, names):
        """Regions of all images: those that other losses have used already, else proposals drawn at random."""
        parts = []
        for view in [views[x] for x in names if x in views]:
            drawn = view.regions
            if drawn is None:
                drawn = unlabelled_regions(student, view.images, view.features, self.module.regions_per_image)
            parts.append(drawn)
        return Regions.join(parts)
