"""L_T of a classifier: minimum class confusion (Jin et al., ECCV 2020)."""

import torch

from .base import Term


class ClassConfusion(Term):
    """MCC on target images: classes that the student confuses with each other move apart. It needs no labels."""

    name = "class_confusion"

    def __init__(self, weight=1.0, temperature=2.0):
        """
        Args:
            weight (float): of the loss.
            temperature (float): T.
        """
        self.weight, self.temperature = weight, temperature

    @classmethod
    def from_config(cls, cfg, student):
        """None where ``MODEL.MIC.MCC.WEIGHT`` is 0."""
        keys = cfg.MODEL.MIC.MCC
        return cls(keys.WEIGHT, keys.TEMPERATURE) if keys.WEIGHT else None

    def active(self, step):
        return bool(step.target)

    def views(self, step):
        return ("target",)

    def losses(self, model, views, step):
        logits = model.student.logits(views["target"].features)
        return {"target/loss_confusion": class_confusion(logits, self.temperature) * self.weight}


def class_confusion(logits, temperature):
    """The mean confusion of a class with the others: (sum C - trace C) / K.

    P = softmax(z / T). An image of entropy H weighs w = B (1 + exp(-H)) / sum (1 + exp(-H)), without gradient.
    C = P^T diag(w) P, each row divided by its sum.

    Args:
        logits (Tensor): (B, K).
        temperature (float): T.
    """
    log_p = (logits / temperature).log_softmax(dim=1)
    p = log_p.exp()
    with torch.no_grad():
        weights = 1 + torch.exp((p * log_p).sum(dim=1))
        weights = weights * (len(weights) / weights.sum())
    confusion = (p * weights[:, None]).T @ p
    confusion = confusion / confusion.sum(dim=1, keepdim=True)
    return (confusion.sum() - confusion.trace()) / len(confusion)
