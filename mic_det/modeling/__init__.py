from . import (  # noqa: F401  registers meta-architectures, backbones and heads
    box_panoptic_fpn,
    daformer_head,
    fcos,
    hrda,
    image_classifier,
    mit,
    sliding,
    timm_backbone,
    torchvision_backbone,
    torchvision_vit,
    vit,
)
from .mic import MIC
from .mic_rcnn import MICRCNN

__all__ = ["MIC", "MICRCNN"]
