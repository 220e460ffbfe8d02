"""Detectron2's data as tensors and plain containers, which ``torch.load`` reads without running code."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks


def plain(x):
    """Containers stay, ``Instances`` become a dict of their fields and ``image_size``, tensors go to the CPU."""
    if isinstance(x, torch.Tensor):
        return x.detach().cpu()
    if isinstance(x, np.ndarray):
        return torch.as_tensor(x) if x.dtype.kind in "biuf" else plain(x.tolist())
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, Instances):
        return {"image_size": plain(x.image_size), **plain(x.get_fields())}
    if isinstance(x, (Boxes, BitMasks)):
        return x.tensor.detach().cpu()
    if isinstance(x, PolygonMasks):
        return plain(x.polygons)
    if isinstance(x, dict):
        return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(v) for v in x]
    return x if x is None or isinstance(x, (str, int, float, bool)) else str(x)
