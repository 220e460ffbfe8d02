"""The labels that a config's model learns from and predicts (boxes, pixels or both), and their keys.

Only this module decides it, by the class of the meta-architecture. Other code uses these kinds, or the tasks of a
model, which have the same names.
"""

from detectron2.modeling import META_ARCH_REGISTRY, PanopticFPN, RetinaNet, SemanticSegmentor
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads

from .models import student_architecture

# Detectors without RoI heads, and the node below MODEL that has their keys
DENSE_SECTIONS = {RetinaNet: "RETINANET", FCOS: "FCOS"}


def label_kinds(cfg):
    """The kinds of labels that the model learns from and predicts: ``("boxes",)``, ``("pixels",)`` or both."""
    student = _student_class(cfg)
    if issubclass(student, SemanticSegmentor):
        return ("pixels",)
    return ("boxes", "pixels") if issubclass(student, PanopticFPN) else ("boxes",)


def box_section(model_class):
    """The node below ``MODEL`` with a detector's ``NUM_CLASSES``, ``SCORE_THRESH_TEST`` and ``NMS_THRESH_TEST``."""
    return next((name for kind, name in DENSE_SECTIONS.items() if issubclass(model_class, kind)), "ROI_HEADS")


def box_keys(cfg):
    """The node of the config with these keys of the trained model."""
    return cfg.MODEL[box_section(_student_class(cfg))]


def classes_key(cfg, kind="boxes"):
    """The key that sets the model's number of classes of a kind of label."""
    return f"MODEL.{'SEM_SEG_HEAD' if kind == 'pixels' else box_section(_student_class(cfg))}.NUM_CLASSES"


def num_classes(cfg, kind="boxes"):
    """The model's number of classes of a kind of label."""
    return (cfg.MODEL.SEM_SEG_HEAD if kind == "pixels" else box_keys(cfg)).NUM_CLASSES


def consistency_weights(cfg):
    """lambda_M of each kind of label that the model learns from."""
    weights = {"boxes": cfg.MODEL.MIC.CONSISTENCY.WEIGHT, "pixels": cfg.MODEL.MIC.SEM_SEG.WEIGHT}
    return {kind: weights[kind] for kind in label_kinds(cfg)}


def mask_keys(cfg):
    """The node of the patch mask's keys. Models with boxes share one mask; a segmentation without boxes has its own."""
    return cfg.MODEL.MIC.MASK if "boxes" in label_kinds(cfg) else cfg.MODEL.MIC.SEM_SEG.MASK


def _student_class(cfg):
    name = student_architecture(cfg)
    found = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else object
    return found if isinstance(found, type) else object


def weights_regions(cfg):
    """Whether L_M weights each region of the student (alignment needs this, too), not each image."""
    heads = cfg.MODEL.ROI_HEADS.NAME
    heads = ROI_HEADS_REGISTRY.get(heads) if heads in ROI_HEADS_REGISTRY else object
    in_two_stages = "boxes" in label_kinds(cfg) and box_section(_student_class(cfg)) == "ROI_HEADS"
    return in_two_stages and not issubclass(heads, CascadeROIHeads) and not cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE
