"""The terms of the loss L = L_S + L_T + lambda_M L_M, one class each."""

from .alignment import Alignment
from .base import Step, Term
from .class_mix import ClassMix
from .feature_distance import FeatureDistance
from .masked_consistency import MaskedConsistency
from .supervised import Supervised

__all__ = ["Alignment", "ClassMix", "FeatureDistance", "MaskedConsistency", "Step", "Supervised", "Term"]
