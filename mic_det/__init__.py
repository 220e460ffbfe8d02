"""mic_det: Masked Image Consistency for domain-adaptive object detection in Detectron2."""

__version__ = "0.1.0"

from . import quiet  # noqa: F401  before Detectron2 is imported

try:
    import detectron2  # noqa: F401
except ImportError as e:
    raise ImportError(
        "mic_det needs Detectron2, which is not on PyPI under its own name: "
        "run `python tools/install_detectron2.py` (or `make env`) from the repository first."
    ) from e

from . import modeling  # noqa: F401  registers MIC and the torchvision backbone
from .config import add_mic_config
from .data.builtin import register_cityscapes
from .data.driving import register_driving

register_cityscapes()
register_driving()

__all__ = ["add_mic_config", "__version__"]
