from . import panoptic, torchvision_backbone  # noqa: F401  registers the meta-architecture and the backbone
from .mic_rcnn import MICRCNN

__all__ = ["MICRCNN"]
