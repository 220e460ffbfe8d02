"""The encoder inside of a backbone: the part that ImageNet weights are for."""

from detectron2.modeling import Backbone


def innermost(backbone):
    """The encoder below a pyramid, and below HRDA's two scales: the prefix of its tensors in a model, and itself."""
    where = "backbone."
    while part := next((x for x in ("bottom_up", "net") if isinstance(getattr(backbone, x, None), Backbone)), ""):
        where, backbone = f"{where}{part}.", getattr(backbone, part)
    return where, backbone
