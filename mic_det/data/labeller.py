"""Boxes that another detector has found in the target images (``MODEL.MIC.LABELLER``), for each image's dict."""

import math
import os
from collections import Counter, defaultdict

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from torchvision.ops import batched_nms

from ..config.label_kinds import num_classes
from ..errors import DataError
from .classes import categories, model_class_names
from .coco.box_units import box_convention_problem
from .custom_sets import resolve_path
from .labeller_file import (
    paths_of_images,
    places_of_classes,
    read_labeller_file,
)
from .samplers import size_in_file

LABELLER = "labeller"  # the entry of a target image's dict: a list of annotations; mapped, it is Instances


def add_labeller(cfg, dicts, all_dicts):
    """Give the dicts of unlabelled target images, in place, the boxes of the labeller.

    Args:
        cfg (CfgNode): ``MODEL.MIC.LABELLER``.
        dicts (list[dict]): the unlabelled target images. Each gets the entry ``"labeller"``, a list of annotations with
            ``bbox`` (XYXY pixels of the image's file), ``category_id`` (index of the model's class) and ``score``.
        all_dicts (list[dict]): all images of ``DATASETS.TARGET``. Boxes of those that are used as labelled ones have
            no effect.

    Returns:
        list[str]: lines for the log; [] without a labeller.

    Raises:
        DataError: where the file cannot be used: an unknown image or class, a box that is not in pixels of its image, a
            score that is no probability. It names the entry.
        ConfigError: for classes that the model does not have.
    """
    keys, p = cfg.MODEL.MIC.LABELLER, cfg.MODEL.MIC.PSEUDO_BOXES
    if not keys.JSON:
        return []
    file = read_labeller_file(str(resolve_path(keys.JSON)))
    names = model_class_names(cfg) or [f"class {i + 1}" for i in range(num_classes(cfg))]
    classes = places_of_classes(file, names, keys.CLASSES, _ids_of_sets(cfg, names))
    paths = paths_of_images(file, all_dicts)
    sizes = _check_sizes(file, paths)
    power = math.log(p.SCORE_THRESHOLD) / math.log(keys.SURE_SCORE) if keys.SURE_SCORE else 1.0
    found = defaultdict(list)
    for x, label, path in zip(file.boxes, classes, paths):
        if label is not None and x["score"] >= keys.SCORE_THRESHOLD:
            found[path].append((x["bbox"], label, x["score"] ** power))
    for x in dicts:
        boxes = found.get(x["file_name"], ())
        x[LABELLER] = _selected(boxes, sizes.get(x["file_name"]), p.NMS_THRESHOLD, p.MAX_PER_IMAGE)
    if not any(x[LABELLER] for x in dicts):
        raise DataError(
            f"{file.where} has no box for an unlabelled image of DATASETS.TARGET with a score of at least "
            f"{keys.SCORE_THRESHOLD} and a class of the model: check MODEL.MIC.LABELLER."
        )
    left_out = Counter(x["category_id"] for x, label in zip(file.boxes, classes) if label is None)
    return _describe(file, dicts, names, left_out, p.SCORE_THRESHOLD)


def labeller_instances(annotations, image_size):
    """Annotations whose boxes are in the frame of an image (height, width), as ``Instances`` like detections."""
    boxes = torch.as_tensor(np.array([a["bbox"] for a in annotations]))  # the transforms have made them XYXY
    found = Instances(image_size)
    found.pred_boxes = Boxes(boxes.reshape(-1, 4).float())
    found.scores = torch.tensor([float(a["score"]) for a in annotations])
    found.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    return found[found.pred_boxes.nonempty()]


def _ids_of_sets(cfg, names):
    """{id: name} as results for the annotation files of the sets have them; counted from 1 where no set tells."""
    sets = cfg.DATASETS
    for name in (*sets.TARGET, *sets.TARGET_LABELLED, *sets.TRAIN, *sets.TEST):
        if known := categories(name):
            return dict(known)
    return {i + 1: n for i, n in enumerate(names)}


def _check_sizes(file, paths):
    """{path: (width, height)} of the images with boxes, whose boxes and stated sizes must fit them."""
    sizes = {path: size_in_file(path) for path in dict.fromkeys(paths)}
    for i, (x, path) in enumerate(zip(file.boxes, paths)):
        image, size = (file.images or {}).get(x["image_id"], {}), sizes[path]
        stated = image.get("width", size[0]), image.get("height", size[1])
        if stated != size:
            raise DataError(
                f"{file.entry(i)}: the file says that {image['file_name']} has {stated[0]} x {stated[1]} pixels, but "
                f"{path} has {size[0]} x {size[1]}: its boxes are of another image, or of a resized one."
            )
    boxes = [(f"entry {i}", x["bbox"], *sizes[path]) for i, (x, path) in enumerate(zip(file.boxes, paths))]
    problem = box_convention_problem(boxes)
    if problem:
        raise DataError(f"{file.where} {problem}")
    for i, (_, (x, y, w, h), width, height) in enumerate(boxes):
        margin = 1 + 0.02 * max(width, height)
        if min(x, y) < -margin or x + w > width + margin or y + h > height + margin:
            raise DataError(
                f"{file.entry(i)} has the box {[x, y, w, h]}, which reaches out of {paths[i]} ({width} x {height}): "
                "boxes are [x, y, width, height] in pixels of the image's file, not of a resized or padded copy."
            )
    return sizes


def _selected(boxes, size, nms_threshold, most):
    """Annotations after cutting at the image's border and class-wise non-maximum suppression, the best first."""
    if not boxes:
        return []
    corners = torch.tensor([[x, y, x + w, y + h] for (x, y, w, h), _, _ in boxes], dtype=torch.float32)
    corners = torch.minimum(corners.clamp(min=0), torch.tensor([*size, *size], dtype=torch.float32))
    labels, scores = torch.tensor([b[1] for b in boxes]), torch.tensor([b[2] for b in boxes], dtype=torch.float32)
    keep = [i for i in batched_nms(corners, scores, labels, nms_threshold).tolist() if _has_area(corners[i])]
    return [
        {
            "bbox": corners[i].tolist(),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": int(labels[i]),
            "score": float(scores[i]),
        }
        for i in keep[:most]
    ]


def _has_area(corners):
    return bool((corners[2:] > corners[:2]).all())


def _describe(file, dicts, names, left_out, sure):
    boxes = [a for x in dicts for a in x[LABELLER]]
    per_class = Counter(a["category_id"] for a in boxes)
    counts = ", ".join(f"{n} {per_class[i]}" for i, n in enumerate(names))
    images, confident = sum(bool(x[LABELLER]) for x in dicts), sum(a["score"] >= sure for a in boxes)
    lines = [
        f"       labeller {os.path.basename(file.path)}: {len(boxes)} boxes ({counts}) on {images} of {len(dicts)} "
        f"images, {confident} with a score of at least {sure}"
    ]
    if left_out:
        shown = ", ".join(f"{n} of {(file.categories or {}).get(i, i)}" for i, n in left_out.most_common(5))
        lines.append(f"       labeller: {sum(left_out.values())} boxes of other classes are left out ({shown}).")
    return lines
