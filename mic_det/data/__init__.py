"""Data sets, and training batches of two domains."""

from typing import TYPE_CHECKING

from ..utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from .loader import build_mic_train_loader
    from .mapper import DomainMapper

__all__ = ["DomainMapper", "build_mic_train_loader"]

__getattr__, __dir__ = lazy_names(__name__, {"DomainMapper": ".mapper", "build_mic_train_loader": ".loader"})
