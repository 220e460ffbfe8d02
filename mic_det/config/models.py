"""What a config says about its model."""

from detectron2.modeling import META_ARCH_REGISTRY

HRDA_BACKBONE, HRDA_HEAD = "build_hrda_backbone", "HRDAHead"


def student_architecture(cfg):
    """Name of the meta-architecture that is trained: MIC's student, or the plain model itself."""
    return cfg.MODEL.MIC.STUDENT if is_mic(cfg) else cfg.MODEL.META_ARCHITECTURE


def is_mic(cfg):
    """Whether the model is MIC, or a registered class of one's own that derives from it."""
    name = cfg.MODEL.META_ARCHITECTURE
    return name in META_ARCH_REGISTRY and getattr(META_ARCH_REGISTRY.get(name), "wraps_student", False)


def backbone_name(cfg):
    """Name of the backbone; with HRDA, that of each of its scales."""
    name = cfg.MODEL.BACKBONE.NAME
    return cfg.MODEL.HRDA.BACKBONE if name == HRDA_BACKBONE else name
