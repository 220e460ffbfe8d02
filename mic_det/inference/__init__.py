"""Prediction."""

from typing import TYPE_CHECKING

from ..utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from .predictor import Predictor

__all__ = ["Predictor"]

__getattr__, __dir__ = lazy_names(__name__, {"Predictor": ".predictor"})
