"""Detectron2's data as tensors and plain containers, which ``torch.load`` reads without running code."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks


def to_plain_containers(x):
    """Containers stay, ``Instances`` become a dict of their fields and ``image_size``, tensors go to the CPU."""
    if isinstance(x, torch.Tensor):
        return x.detach().cpu()
    if isinstance(x, np.ndarray):
        return torch.as_tensor(x) if x.dtype.kind in "biuf" else to_plain_containers(x.tolist())
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, Instances):
        return {"image_size": to_plain_containers(x.image_size), **to_plain_containers(x.get_fields())}
    if isinstance(x, (Boxes, BitMasks)):
        return x.tensor.detach().cpu()
    if isinstance(x, PolygonMasks):
        return to_plain_containers(x.polygons)
    if isinstance(x, dict):
        return {str(k): to_plain_containers(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [to_plain_containers(v) for v in x]
    return x if x is None or isinstance(x, (str, int, float, bool)) else str(x)
