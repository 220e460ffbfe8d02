"""Training."""

from typing import TYPE_CHECKING

from ..utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from .setup import get_mic_cfg
    from .trainer import MICTrainer

__all__ = ["MICTrainer", "get_mic_cfg"]

__getattr__, __dir__ = lazy_names(__name__, {"MICTrainer": ".trainer", "get_mic_cfg": ".setup"})
