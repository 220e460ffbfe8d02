"""lambda_M L_M: the student predicts on masked images what the teacher sees in whole ones (MIC, Eq. 6)."""

import torch
from detectron2.utils.events import get_event_storage

from ...config.label_kinds import consistency_weights
from .base import Term


class MaskedConsistency(Term):
    """Masked image consistency on target images, source images, or both."""

    name = "masked"

    def __init__(self, weights, domains="target"):
        """
        Args:
            weights (dict[str, float]): lambda_M by name of task; a task without one is left out.
            domains (str): whose masked views are trained on: "target", "source" (with its true labels), "both", or
                "separate": as many images as the target has, half of them of each domain; for label maps alone.
        """
        self.weights = {k: v for k, v in weights.items() if v}
        self.separate = domains == "separate"
        self.domains = ("target", "source") if domains in ("both", "separate") else (domains,)

    @classmethod
    def from_config(cls, cfg, tasks):
        weights = consistency_weights(cfg)
        return cls({task.name: weights[task.name] for task in tasks}, cfg.MODEL.MIC.MASK.DOMAINS)

    def active(self, step):
        return bool(self.weights) and step.ramp > 0

    def needs_teacher(self, step):
        return "target" in self.domains

    def views(self, step):
        if self.separate and step.num_masked is None:
            images = len(step.target)  # the odd one of them is of a random domain
            sources = min(images // 2 + int(images % 2 and torch.rand(()) < 0.5), len(step.source))
            step.num_masked = (images - sources, sources)
        return tuple(f"masked_{domain}" for domain in self.domains)

    def losses(self, model, views, step):
        losses, view = {}, views["masked_target", "masked_source"]
        for task in model.tasks:
            if task.name not in self.weights:
                continue
            # not where a term of another kind alone needed the teacher
            pseudo = step.pseudo[task.name] if "target" in self.domains else task.no_pseudo_labels()
            truth = step.truth[task.name] if "source" in self.domains else []
            if self.separate:
                targets, sources = step.num_masked
                pseudo, truth = pseudo.first(targets), truth[:sources]
            weight = self.weights[task.name] * step.ramp
            with get_event_storage().name_scope("masked"):
                for name, value in task.consistency(model.student, view, pseudo, truth).items():
                    losses[f"masked/{name}"] = value * weight
        return losses
