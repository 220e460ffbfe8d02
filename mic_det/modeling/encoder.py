"""The encoder inside of a backbone: the part that ImageNet weights are for."""

from detectron2.modeling.backbone.vit import SimpleFeaturePyramid


def innermost(backbone):
    """The encoder below a pyramid, and below HRDA's two scales: the prefix of its tensors in a model, and itself."""
    where = "backbone."
    while part := _inner(backbone):
        where, backbone = f"{where}{part}.", getattr(backbone, part)
    return where, backbone


def _inner(backbone):
    if isinstance(backbone, SimpleFeaturePyramid):
        return "net"
    return "bottom_up" if hasattr(backbone, "bottom_up") else ""
