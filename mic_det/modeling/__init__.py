from . import panoptic, torchvision_backbone  # noqa: F401  registers the meta-architecture and the backbone
from .mic import MIC, MICRCNN

__all__ = ["MIC", "MICRCNN"]
