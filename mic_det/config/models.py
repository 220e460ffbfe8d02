"""What a config says about its model."""

from detectron2.modeling import META_ARCH_REGISTRY


def student_architecture(cfg):
    """Name of the meta-architecture that is trained: MIC's student, or the plain model itself."""
    return cfg.MODEL.MIC.STUDENT if is_mic(cfg) else cfg.MODEL.META_ARCHITECTURE


def is_mic(cfg):
    """Whether the model is MIC, or a registered class of one's own that derives from it."""
    name = cfg.MODEL.META_ARCHITECTURE
    return name in META_ARCH_REGISTRY and getattr(META_ARCH_REGISTRY.get(name), "wraps_student", False)
