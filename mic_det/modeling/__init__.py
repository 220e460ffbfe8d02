from . import box_panoptic_fpn, fcos, torchvision_backbone  # noqa: F401  registers meta-architectures and a backbone
from .mic import MIC, MICRCNN

__all__ = ["MIC", "MICRCNN"]
