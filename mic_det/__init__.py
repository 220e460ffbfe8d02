"""mic_det: Masked Image Consistency for domain-adaptive object detection in Detectron2.

What users need is here: configs (:func:`get_mic_cfg`, or :func:`add_mic_config` for Detectron2's own), the model
(:class:`MIC`), batches of two domains (:func:`build_mic_train_loader`), training (:class:`MICTrainer`), weights
(:class:`MICCheckpointer`), prediction (:class:`Predictor`), and the errors that a user can correct.
"""

import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

from .utils import quiet  # noqa: F401  before Detectron2 is imported
from .utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from .checkpoint.checkpointer import MICCheckpointer
    from .config import add_mic_config
    from .data.loader import build_mic_train_loader
    from .engine.setup import get_mic_cfg
    from .engine.trainer import MICTrainer
    from .errors import CheckpointError, ConfigError, DataError
    from .inference.predictor import Predictor
    from .modeling import MIC

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

NO_DETECTRON2 = (
    "mic_det needs Detectron2, which is not on PyPI under its own name. Install it as its authors say: "
    "https://detectron2.readthedocs.io/tutorials/install.html. Where it cannot be compiled, "
    "`mic-det install-detectron2` installs it as pure Python."
)


def register_with_detectron2():
    """Import what registers models and data sets with Detectron2; a second call does nothing.

    Raises:
        ImportError: where Detectron2 is missing; says how to get it.
    """
    try:
        import detectron2  # noqa: F401
    except ImportError as e:
        raise ImportError(f"{NO_DETECTRON2} ({type(e).__name__}: {e})") from e
    from . import modeling  # noqa: F401  registers MIC, and the torchvision backbone
    from .data.datasets.builtin import register_cityscapes
    from .data.datasets.camvid import register_camvid
    from .data.datasets.driving import register_driving
    from .data.datasets.image_folders import register_image_folders
    from .data.datasets.street_scenes import register_street_scenes

    register_cityscapes()
    register_camvid()
    register_driving()
    register_image_folders()
    register_street_scenes()


# trainer, evaluators and drawing are imported at their first use
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CheckpointError": ".errors",
        "ConfigError": ".errors",
        "DataError": ".errors",
        "MIC": ".modeling",
        "MICCheckpointer": ".checkpoint.checkpointer",
        "MICTrainer": ".engine.trainer",
        "Predictor": ".inference.predictor",
        "add_mic_config": ".config",
        "build_mic_train_loader": ".data.loader",
        "get_mic_cfg": ".engine.setup",
        "register_cityscapes": ".data.datasets.builtin",
        "register_camvid": ".data.datasets.camvid",
        "register_driving": ".data.datasets.driving",
        "register_street_scenes": ".data.datasets.street_scenes",
    },
)

# the programs' door shows their help without Detectron2
if not getattr(sys.modules.get("mic_det_console"), "light", False):
    register_with_detectron2()
