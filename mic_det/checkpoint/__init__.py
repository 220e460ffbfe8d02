"""Files of weights."""

from typing import TYPE_CHECKING

from ..utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from .checkpointer import MICCheckpointer

__all__ = ["MICCheckpointer"]

__getattr__, __dir__ = lazy_names(__name__, {"MICCheckpointer": ".checkpointer"})
