"""Training, weights and prediction."""

from typing import TYPE_CHECKING

from ..utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from ..checkpoint.checkpointer import MICCheckpointer
    from ..errors import CheckpointError
    from ..inference.predictor import Predictor
    from .setup import get_mic_cfg
    from .trainer import MICTrainer

__all__ = ["CheckpointError", "MICCheckpointer", "MICTrainer", "Predictor", "get_mic_cfg"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CheckpointError": ".weights_files",
        "MICCheckpointer": ".checkpoint",
        "MICTrainer": ".trainer",
        "Predictor": ".predict",
        "get_mic_cfg": ".setup",
    },
)
