"""The encoder inside of a backbone: the part that ImageNet weights are for."""


def innermost(backbone):
    """The encoder below an FPN, and below HRDA's two scales: the prefix of its tensors in a model, and itself."""
    where = "backbone."
    while hasattr(backbone, "bottom_up"):
        where, backbone = f"{where}bottom_up.", backbone.bottom_up
    return where, backbone
