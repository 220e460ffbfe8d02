"""The labels that a config's model learns from and predicts (boxes, pixels, both, or image classes), and their keys.

Only this module decides it, by the class of the meta-architecture. Other code uses these kinds, or the tasks of a
model, which have the same names.
"""

from detectron2.modeling import META_ARCH_REGISTRY, PanopticFPN, RetinaNet, SemanticSegmentor
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads

from ..errors import ConfigError
from .models import student_architecture

# Kinds of labels whose number of classes is in one node below MODEL, whatever the model is
SECTIONS = {"pixels": "SEM_SEG_HEAD", "image_class": "IMAGE_CLASSIFIER"}
# Detectors without RoI heads, and the node below MODEL that has their keys
DENSE_SECTIONS = {RetinaNet: "RETINANET", FCOS: "FCOS"}


def label_kinds(cfg):
    """The kinds of labels that the model learns from and predicts.

    They are ``("boxes",)``, ``("pixels",)`` or both for Detectron2's models. Other classes name their own in
    ``label_kinds``, such as ``("image_class",)``.
    """
    student = _student_class(cfg)
    if getattr(student, "label_kinds", None):
        return tuple(student.label_kinds)
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
    return f"MODEL.{_section(cfg, kind)}.NUM_CLASSES"


def num_classes(cfg, kind="boxes"):
    """The model's number of classes of a kind of label."""
    return cfg.MODEL[_section(cfg, kind)].NUM_CLASSES


def _section(cfg, kind):
    """The node below ``MODEL`` with the number of classes of a kind of label."""
    return SECTIONS.get(kind) or box_section(_student_class(cfg))


def consistency_weights(cfg):
    """lambda_M of each kind of label that the model learns from."""
    weights = {"pixels": cfg.MODEL.MIC.SEM_SEG.WEIGHT}
    return {kind: weights.get(kind, cfg.MODEL.MIC.CONSISTENCY.WEIGHT) for kind in label_kinds(cfg)}


def mask_keys(cfg):
    """The node of the patch mask's keys. All models share one, except a segmentation without boxes."""
    return cfg.MODEL.MIC.SEM_SEG.MASK if label_kinds(cfg) == ("pixels",) else cfg.MODEL.MIC.MASK


def has_class_names(cfg):
    """Whether the classes of the data sets have the names and the order of the first training set's."""
    return named_kind(cfg) is not None


def named_kind(cfg):
    """The kind of label whose classes are compared by name: "boxes" or "image_class"; None = neither."""
    return next((kind for kind in label_kinds(cfg) if kind in ("boxes", "image_class")), None)


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


def refuse_image_classes(cfg, what):
    """
    Args:
        what (str): what cannot be done with an image classifier, as the subject of a sentence.

    Raises:
        ConfigError: where the model predicts image classes.
    """
    if "image_class" in label_kinds(cfg):
        raise ConfigError(
            f"{what} is for boxes and label maps, but {student_architecture(cfg)} predicts the class of an image. "
            "`mic-det train --eval-only` measures an image classifier."
        )
