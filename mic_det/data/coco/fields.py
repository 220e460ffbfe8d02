"""Single fields of COCO annotations: what programs write, read as what it means, or refused."""

import numpy as np
from pycocotools import mask as coco_mask

from .annotation_file import is_number

# besides numbers and truth values; a box that does not say so is no crowd
FLAGS = {"": 0, "0": 0, "false": 0, "no": 0, "none": 0, "null": 0, "1": 1, "true": 1, "yes": 1}
FIELDS_OF_RLE = ("counts", "size")


def read_flag(value):
    """0 or 1 of ``iscrowd`` or ``ignore``; None where it means neither."""
    if value is None:
        return 0
    if isinstance(value, str):
        text = value.strip().lower()
        return FLAGS.get(text[:-2] if text in ("0.0", "1.0") else text)
    return int(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


def read_segmentation(value, height, width):
    """A mask as Detectron2 takes it.

    Args:
        value: what the file has.
        height, width (int): of the image.

    Returns:
        (list or dict or None, str): polygons, a compressed RLE, or None where there is no usable mask; and what was
            wrong with it, "" where nothing was.
    """
    if value is None or value in ([], {}, ""):
        return None, ""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]  # a list of one RLE
    if isinstance(value, dict):
        return _read_rle(value, height, width)
    if not isinstance(value, list):
        return None, "has a segmentation that is neither polygons nor RLE; left out"
    flat = all(is_number(v) for v in value)
    polygons = [value] if flat else value
    kept = [p for p in map(_read_polygon, polygons) if p is not None]
    if not kept:
        return None, "has no polygon with three corners and an area; left out"
    if flat:
        return kept, "has its polygon as one flat list; read as one polygon"
    return kept, "" if len(kept) == len(polygons) else "has a polygon without area beside others; left out"


def _read_polygon(polygon):
    """x0, y0, x1, y1, ... of a polygon that has an area, else None."""
    try:
        corners = np.asarray(polygon)
    except ValueError:  # lists of different lengths
        return None
    if corners.dtype.kind not in "iuf" or corners.size < 6 or corners.size % 2 or not np.isfinite(corners).all():
        return None
    if corners.ndim == 2 and corners.shape[1] == 2:  # pairs of coordinates
        polygon = corners.ravel().tolist()
    elif corners.ndim != 1:
        return None
    x, y = corners.reshape(-1, 2).astype(np.float64).T
    area = np.dot(x - x[0], np.roll(y, -1) - np.roll(y, 1))
    return polygon if abs(area) > 1e-9 else None


def _read_rle(rle, height, width):
    if not all(k in rle for k in FIELDS_OF_RLE):
        return None, "has a segmentation without 'counts' and 'size'; left out"
    if rle["size"] != [height, width]:
        return None, "has an RLE of another size than its image; left out"
    counts = rle["counts"]
    try:
        if isinstance(counts, list):
            if not all(isinstance(c, int) and c >= 0 for c in counts) or sum(counts) != height * width:
                return None, "has an RLE whose counts do not add up to its image; left out"
            rle = coco_mask.frPyObjects(rle, height, width)
        area = int(coco_mask.area(rle))
    except (TypeError, ValueError, AttributeError):
        return None, "has an RLE that cannot be read; left out"
    return (rle, "") if 0 < area <= height * width else (None, "has an RLE without a pixel; left out")


def area_of(annotation, height, width):
    """Pixels of an annotation (Detectron2's, XYWH): as the file says, else of its mask, else of its box."""
    if annotation.get("area"):
        return annotation["area"]
    segmentation = annotation.get("segmentation")
    if segmentation is None or None in (height, width):
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return float(coco_mask.area(segmentation))
