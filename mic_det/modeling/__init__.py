from . import torchvision_backbone  # noqa: F401  registers the backbone
from .mic_rcnn import MICRCNN

__all__ = ["MICRCNN"]
