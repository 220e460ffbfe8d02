"""Questions about a config's model: its architecture and its backbone."""

from detectron2.modeling import META_ARCH_REGISTRY

HRDA_BACKBONE, HRDA_HEAD = "build_hrda_backbone", "HRDAHead"
VIT_BACKBONE = "build_vitdet_backbone"


def student_architecture(cfg):
    """Name of the meta-architecture that is trained: MIC's student, or the plain model itself."""
    return cfg.MODEL.MIC.STUDENT if is_mic(cfg) else cfg.MODEL.META_ARCHITECTURE


def is_mic(cfg):
    """Whether the model is MIC, or a registered class that derives from it."""
    name = cfg.MODEL.META_ARCHITECTURE
    return name in META_ARCH_REGISTRY and getattr(META_ARCH_REGISTRY.get(name), "wraps_student", False)


def backbone_name(cfg):
    """Name of the backbone. With HRDA: name of the backbone of both scales."""
    name = cfg.MODEL.BACKBONE.NAME
    return cfg.MODEL.HRDA.BACKBONE if name == HRDA_BACKBONE else name


def has_labels(cfg):
    """Whether a training has labelled images: of the source, or of the target."""
    return bool(cfg.DATASETS.TRAIN or cfg.DATASETS.TARGET_LABELLED)


def is_label_free(cfg):
    """Whether MIC is trained on unlabelled target images alone. There is no supervised loss."""
    return is_mic(cfg) and bool(cfg.DATASETS.TARGET) and not has_labels(cfg)
