"""The terms of the loss L = L_S + L_T + lambda_M L_M, one class each."""

from .alignment import Alignment
from .base import Step, Term
from .class_confusion import ClassConfusion
from .class_mix import ClassMix
from .conditional_alignment import ConditionalAlignment
from .feature_distance import FeatureDistance
from .masked_consistency import MaskedConsistency
from .supervised import Supervised

__all__ = [
    "Alignment", "ClassConfusion", "ClassMix", "ConditionalAlignment", "FeatureDistance", "MaskedConsistency", "Step",
    "Supervised", "Term", "unsupervised_terms",
]  # fmt: skip


def unsupervised_terms(cfg, student, tasks):
    """The terms that ``MODEL.MIC`` adds to L_S and L_M, except the alignment of boxes."""
    terms = [FeatureDistance.from_config(cfg, student)]
    if any(task.name == "pixels" for task in tasks) and cfg.MODEL.MIC.SEM_SEG.MIX_WEIGHT:
        terms.insert(0, ClassMix.from_config(cfg))
    terms += [kind.from_config(cfg, student) for kind in (ClassConfusion, ConditionalAlignment)]
    return [term for term in terms if term is not None]
