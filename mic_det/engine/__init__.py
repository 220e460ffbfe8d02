"""Training, weights and prediction."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .checkpoint import MICCheckpointer
    from .predict import Predictor
    from .setup import get_mic_cfg
    from .trainer import MICTrainer
    from .weights_files import CheckpointError

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
