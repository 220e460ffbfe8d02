"""Boxes from Cityscapes' instance maps, as a COCO data set."""

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

# Cityscapes' label ids of the eight thing classes, in the field's order of classes
THING_IDS = {
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
THING_CLASSES = tuple(THING_IDS)


def cityscapes_to_coco(root, split, image_dir="leftImg8bit", image_suffix="leftImg8bit.png"):
    """COCO annotations of one split from ``gtFine/{split}/{city}/*_gtFine_instanceIds.png``.

    An instance's box is the tight box of its visible pixels. Regions that are not divided into
    instances (groups) become crowd annotations. Images without things are kept.

    Args:
        root (path): folder with ``gtFine`` and ``image_dir``.
        split (str): "train", "val", ...
        image_dir, image_suffix (str): e.g. "leftImg8bit_foggy" and
            "leftImg8bit_foggy_beta_0.02.png" for Foggy Cityscapes, which shares the annotations.

    Returns:
        dict: in COCO's format; file names are relative to ``root/image_dir``; categories 1 to 8.

    Raises:
        FileNotFoundError: where the split is missing, a city is empty, or an image or its annotation is
            missing; names it.
        ValueError: where an instance map cannot be read or is not of its image's size; names it.
    """
    root = Path(root)
    images, annotations = [], []
    for image_id, (file, name) in enumerate(_pairs(root, split, image_dir, image_suffix), start=1):
        ids = _read_ids(file, root / image_dir / name)
        images.append({"id": image_id, "file_name": name, "height": ids.shape[0], "width": ids.shape[1]})
        for annotation in _annotations(ids):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    categories = [{"id": i, "name": name} for i, name in enumerate(THING_CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _pairs(root, split, image_dir, image_suffix):
    """(instance map, image's name below ``image_dir``) of each image of a split, in the order of names."""
    folder, kind = root / "gtFine" / split, "gtFine_instanceIds.png"
    files = sorted(folder.glob(f"*/*_{kind}"))
    if not files:
        raise FileNotFoundError(f"no */*_{kind} in {folder}: check the Cityscapes folder and the split")
    for city in sorted({p for p in folder.iterdir() if p.is_dir()} - {file.parent for file in files}):
        raise FileNotFoundError(f"no *_{kind} in {city}: unpack gtFine again, or remove this empty city")
    pairs = [(file, f"{split}/{file.parent.name}/{file.name[: -len(kind)]}{image_suffix}") for file in files]
    for file, name in pairs:
        if not (root / image_dir / name).is_file():
            raise FileNotFoundError(
                f"{root / image_dir / name} is missing, though {file.name} annotates it: unpack {image_dir} again"
            )
    names = {name for _, name in pairs}
    for image in sorted((root / image_dir / split).glob(f"*/*_{image_suffix}")):
        if f"{split}/{image.parent.name}/{image.name}" not in names:
            raise FileNotFoundError(f"{image} has no *_{kind} in {folder / image.parent.name}: unpack gtFine again")
    return pairs


def _read_ids(file, image):
    """An instance map, (H, W) int64, of the size of its image."""
    try:
        with Image.open(file) as opened:
            ids = np.asarray(opened)
        with Image.open(image) as opened:
            width, height = opened.size
    except OSError as e:
        raise ValueError(f"{file} or its image {image} cannot be read ({e}): unpack it again") from e
    if ids.shape != (height, width):
        raise ValueError(f"{file} has the shape {ids.shape}, its image {(height, width)}: both must be of one size")
    return ids.astype(np.int64)


def _annotations(ids):
    """One dict for each instance or group in an instance map (H, W)."""
    categories = {label: i for i, label in enumerate(THING_IDS.values(), start=1)}
    for value in np.unique(ids):
        label = value // 1000 if value >= 1000 else value
        if label not in categories:
            continue
        mask = ids == value
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        yield {
            "category_id": categories[label],
            "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
            "area": int(mask.sum()),
            "iscrowd": int(value < 1000),
            "segmentation": {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode("ascii")},
        }


def write_coco(coco, path):
    """Write what :func:`cityscapes_to_coco` returned, whole or not at all, the same bytes for the same data."""
    write_json(coco, path)


def write_json(content, path):
    """Write JSON whole or not at all; the same content gives the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
    os.replace(temporary, path)
