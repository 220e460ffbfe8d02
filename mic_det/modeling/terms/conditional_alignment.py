"""L_T of a classifier: conditional adversarial alignment (CDAN; Long et al., NeurIPS 2018)."""

import math

import torch
import torch.nn.functional as F
from detectron2.utils.events import get_event_storage
from torch import nn

from ..domain_alignment import domain_weights
from ..domain_classifiers import gradient_reversal
from ..image_classifier import EMBEDDING
from .base import Term


class ConditionalAlignment(Term):
    """A domain classifier of what an image looks like, given its class, behind a gradient reversal.

    Its input is the outer product of class probabilities (without gradient) and embedding. SAM's ascent leaves it out:
    a smooth minimum of an adversarial loss does not help (SDAT).
    """

    name = "cdan"
    smoothed = False

    def __init__(self, num_classes, embedding, weight=1.0, hidden=1024, ramp_steps=1000):
        """
        Args:
            num_classes (int): K.
            embedding (int): length F of the embedding.
            weight (float): of the loss.
            hidden (int): width of the two hidden layers.
            ramp_steps (int): of the gradient reversal; 0 = constant.
        """
        layers, size = [], num_classes * embedding
        for _ in range(2):
            layers += [nn.Linear(size, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
            size = hidden
        self.module = nn.Sequential(*layers, nn.Linear(size, 1))
        self.weight, self.ramp_steps = weight, ramp_steps

    @classmethod
    def from_config(cls, cfg, student):
        """None where ``MODEL.MIC.CDAN.WEIGHT`` is 0."""
        keys = cfg.MODEL.MIC.CDAN
        if not keys.WEIGHT:
            return None
        layer = student.classifier
        return cls(layer.out_features, layer.in_features, keys.WEIGHT, keys.FC_DIM, keys.RAMP_STEPS)

    def active(self, step):
        return bool(step.target)

    def views(self, step):
        return ("source", "target")

    def reversal_weight(self, step):
        """Factor of the reversed gradient at an optimizer step: 2 / (1 + exp(-i / ramp_steps)) - 1."""
        return 2 / (1 + math.exp(-step / self.ramp_steps)) - 1 if self.ramp_steps else 1.0

    def losses(self, model, views, step):
        features = views["source", "target"].features
        joint = outer_product(model.student.logits(features).detach().softmax(dim=1), features[EMBEDDING])
        logits = self.module(gradient_reversal(joint, self.reversal_weight(step.number)))[:, 0].float()
        is_target = torch.arange(len(logits), device=logits.device) >= len(step.source)
        loss = F.binary_cross_entropy_with_logits(logits, is_target.float(), reduction="none")
        weights = domain_weights(is_target)
        right = ((logits > 0) == is_target).float()
        get_event_storage().put_scalar("align/accuracy_class", (right * weights).sum())
        return {"align/loss_class": (loss * weights).sum() * self.weight}


def outer_product(probs, features):
    """(N, K) and (N, F) -> (N, K F): p_k f_j at k F + j."""
    return torch.einsum("nk,nf->nkf", probs, features).flatten(1)
