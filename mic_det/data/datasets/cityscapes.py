"""Boxes from Cityscapes' instance maps or polygons, as a COCO data set."""

import functools
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from ...utils.ordinary_files import open_picture, read_text
from ...utils.parallel import run_parallel, write_bytes
from ..files import glob_files
from .cityscapes_labels import THING_CLASSES, THING_IDS, polygon_label

SOURCES = ("instanceIds", "polygons")
SUFFIXES = {"instanceIds": "gtFine_instanceIds.png", "polygons": "gtFine_polygons.json"}


def cityscapes_to_coco(
    root, split, image_dir="leftImg8bit", image_suffix="leftImg8bit.png", source=None, workers=1, progress=False,
    more=None,
):  # fmt: skip
    """COCO annotations of one split from ``gtFine/{split}/{city}/*_gtFine_{instanceIds.png,polygons.json}``.

    An instance's box is the tight box of its visible pixels. Regions that are not divided into
    instances (groups) become crowd annotations. Images without things are kept.

    Args:
        root (path): folder with ``gtFine`` and ``image_dir``.
        split (str): "train", "val", ...
        image_dir, image_suffix (str): e.g. "leftImg8bit_foggy" and
            "leftImg8bit_foggy_beta_0.02.png" for Foggy Cityscapes, which shares the annotations.
        source (str): "instanceIds" or "polygons"; None takes the first that the split has.
        workers (int): processes; None = one a core.
        progress (bool): show a progress bar.
        more (callable): of an annotation file, returns further entries of its annotations: {instance id: dict}.

    Returns:
        dict: in COCO's format; file names are relative to ``root/image_dir``; categories 1 to 8. Each image tells
        its label map's name below ``gtFine`` as ``sem_seg_file_name``, whether there is one or not.

    Raises:
        FileNotFoundError: where the split is missing, a city is empty, or an image or its annotation is
            missing; names it.
        ValueError: where an annotation cannot be read or is not of its image's size; names it.
    """
    root = Path(root)
    source = source or default_source(root, split)
    pairs = annotated_images(root, split, image_dir, image_suffix, source)
    jobs = [(file, root / image_dir / name) for file, name in pairs]
    read = functools.partial(_image_annotations, source=source, more=more)
    found = run_parallel(read, jobs, workers, f"{split} boxes", progress)
    images, annotations = [], []
    for image_id, ((_, name), ((height, width), own)) in enumerate(zip(pairs, found), start=1):
        label_map = f"{name[: -len(image_suffix)]}gtFine_labelTrainIds.png"
        images.append(
            {"id": image_id, "file_name": name, "height": height, "width": width, "sem_seg_file_name": label_map}
        )
        for annotation in own:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    categories = [{"id": i, "name": name} for i, name in enumerate(THING_CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def default_source(root, split):
    """The kind of annotation that a split has: instance maps before polygons."""
    folder = Path(root) / "gtFine" / split
    found = [kind for kind in SOURCES if glob_files(folder, f"*/*_{SUFFIXES[kind]}")]
    return (found or SOURCES)[0]


def annotated_images(root, split, image_dir="leftImg8bit", image_suffix="leftImg8bit.png", source="instanceIds"):
    """(annotation file, image's name below ``image_dir``) of each image of a split, in the order of names.

    Raises:
        FileNotFoundError: see :func:`cityscapes_to_coco`.
    """
    folder, kind = Path(root) / "gtFine" / split, SUFFIXES[source]
    files = glob_files(folder, f"*/*_{kind}")
    if not files:
        raise FileNotFoundError(f"no */*_{kind} in {folder}: check the Cityscapes folder and the split")
    for city in sorted({p for p in glob_files(folder, "*") if p.is_dir()} - {file.parent for file in files}):
        raise FileNotFoundError(f"no *_{kind} in {city}: unpack gtFine again, or remove this empty city")
    pairs = [(file, f"{split}/{file.parent.name}/{file.name[: -len(kind)]}{image_suffix}") for file in files]
    images = Path(root) / image_dir
    for file, name in pairs:
        if not (images / name).is_file():
            raise FileNotFoundError(
                f"{images / name} is missing, though {file.name} annotates it: unpack {image_dir} again"
            )
    names = {name for _, name in pairs}
    for image in glob_files(images / split, f"*/*_{image_suffix}"):
        if f"{split}/{image.parent.name}/{image.name}" not in names:
            raise FileNotFoundError(f"{image} has no *_{kind} in {folder / image.parent.name}: unpack gtFine again")
    return pairs


def _image_annotations(job, source, more):
    """((height, width), annotations) of one image."""
    file, image = job
    ids = read_instance_ids(file) if source == "instanceIds" else polygons_to_instance_ids(file)
    try:
        with open_picture(image) as opened:
            width, height = opened.size
    except OSError as e:
        raise ValueError(f"{image} cannot be read ({e}): unpack it again") from e
    if ids.shape != (height, width):
        raise ValueError(f"{file} has the shape {ids.shape}, its image {(height, width)}: both must be of one size")
    return ids.shape, list(_annotations(ids, more(file) if more else {}))


def read_instance_ids(file):
    """An instance map, (H, W) int64: id for stuff and groups, 1000 id + number for instances.

    Raises:
        ValueError: where the file cannot be read; names it.
    """
    try:
        with open_picture(file) as opened:
            return np.asarray(opened).astype(np.int64)
    except (OSError, SyntaxError) as e:
        raise ValueError(f"{file} cannot be read ({e}): unpack it again") from e


def polygons_to_instance_ids(file):
    """The instance map that a ``*_gtFine_polygons.json`` describes; polygons are painted in their order.

    Returns:
        ndarray: (H, W) int64, as :func:`read_instance_ids`.

    Raises:
        ValueError: where the file cannot be read or lacks something; names it.
    """
    try:
        content = json.loads(read_text(file))
        canvas = Image.new("I", (content["imgWidth"], content["imgHeight"]), 0)
        draw, counts = ImageDraw.Draw(canvas), {}
        for item in content["objects"]:
            if item.get("deleted"):
                continue
            value, instances, _ = polygon_label(item["label"])
            if value < 0:
                continue
            if instances:
                counts[value] = counts.get(value, -1) + 1
                value = value * 1000 + counts[value]
            points = [tuple(p) for p in item["polygon"]]
            if len(points) == 1:
                draw.point(points, fill=value)
            else:
                draw.polygon(points, fill=value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"{file} is not a readable polygon file ({type(e).__name__}: {e}): unpack it again") from e
    return np.asarray(canvas).astype(np.int64)


def _annotations(ids, more):
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
            **more.get(int(value), {}),
        }


def write_json(content, path):
    """Write JSON whole or not at all; the same content gives the same bytes."""
    write_bytes(Path(path), json.dumps(content, sort_keys=True).encode("utf-8"))
