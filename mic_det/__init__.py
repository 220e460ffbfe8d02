"""mic_det: Masked Image Consistency for domain-adaptive object detection in Detectron2.

What users need is here: configs (:func:`get_mic_cfg`, or :func:`add_mic_config` for Detectron2's own), the model
(:class:`MIC`), batches of two domains (:func:`build_mic_train_loader`), training (:class:`MICTrainer`), weights
(:class:`MICCheckpointer`), prediction (:class:`Predictor`), and the errors that a user can correct.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

from .utils import quiet  # noqa: F401  before Detectron2 is imported

try:
    import detectron2  # noqa: F401
except ImportError as e:
    raise ImportError(
        "mic_det needs Detectron2, which is not on PyPI under its own name: "
        "run `python tools/install_detectron2.py` (or `make env`) from the repository first."
    ) from e

from .config import add_mic_config
from .data.datasets.builtin import register_cityscapes
from .data.datasets.camvid import register_camvid
from .data.datasets.driving import register_driving
from .errors import ConfigError, DataError
from .modeling import MIC  # registers it, and the torchvision backbone
from .utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from .checkpoint.checkpointer import MICCheckpointer
    from .data.loader import build_mic_train_loader
    from .engine.setup import get_mic_cfg
    from .engine.trainer import MICTrainer
    from .errors import CheckpointError
    from .inference.predictor import Predictor

register_cityscapes()
register_camvid()
register_driving()

__all__ = [
    "MIC",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MICCheckpointer",
    "MICTrainer",
    "Predictor",
    "__version__",
    "add_mic_config",
    "build_mic_train_loader",
    "get_mic_cfg",
]

# these would import trainer, evaluators and drawing
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CheckpointError": ".errors",
        "MICCheckpointer": ".checkpoint.checkpointer",
        "MICTrainer": ".engine.trainer",
        "Predictor": ".inference.predictor",
        "build_mic_train_loader": ".data.loader",
        "get_mic_cfg": ".engine.setup",
    },
)
