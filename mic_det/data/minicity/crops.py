"""``minicity_crops``: squares around the things of the miniature city, clear and foggy, for image classifiers."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from ...errors import MinicityError
from ...utils.parallel import run_parallel, write_png
from ..coco.annotation_file import read_coco

SPLITS = ("train", "val")


def make_minicity_crops(root, output, beta="0.02", min_side=16, margin=0.2, size=72, workers=None, progress=True):
    """Write ``output/{clear,foggy}/{train,val}/CLASS/IMAGE_ANNOTATION.png``.

    A crop is the square around a box with a margin, moved into the image. The same thing has the same name in both
    domains. The folder appears when all is written.

    Args:
        root (path): of the miniature city.
        output (path): a folder that does not exist.
        beta (str): density of the fog in 1/m, as in the names of the city's files.
        min_side (float): things whose box has a shorter side (pixels) are left out.
        margin (float): added on each side, as a share of the longer side of the box.
        size (int): side of the crops in pixels.
        workers (int), progress (bool): of the processes.

    Returns:
        dict[str, dict[str, int]]: for each split, the number of crops of each class.

    Raises:
        MinicityError: where the folder exists, or the city is not there; names it.
    """
    root, output = Path(root), Path(output)
    if output.exists():
        raise MinicityError(f"{output} exists: remove it, or name another folder.")
    work, counts, jobs = output.with_name(f".{output.name}.{os.getpid()}"), {}, []
    for split in SPLITS:
        counts[split] = {}
        domains = {"clear": ("leftImg8bit", f"instances_{split}.json"),
                   "foggy": ("leftImg8bit_foggy", f"instances_foggy_{beta}_{split}.json")}  # fmt: skip
        for domain, (folder, file) in domains.items():
            if not (root / "annotations" / file).is_file():
                raise MinicityError(
                    f"{root / 'annotations' / file} is missing: datasets/make_minicity.py makes the city."
                )
            content = read_coco(f"minicity {split}", root / "annotations" / file)
            names = {x["id"]: x["name"] for x in content["categories"]}
            things = {x["id"]: [] for x in content["images"]}
            for a in content["annotations"]:
                if min(a["bbox"][2:]) >= min_side and not a.get("iscrowd", 0):
                    things[a["image_id"]].append((a["bbox"], names[a["category_id"]]))
            for image in content["images"]:
                found = things[image["id"]]
                jobs.append((root / folder / image["file_name"], work / domain / split, found, margin, size))
                for _, name in found if domain == "clear" else ():
                    counts[split][name] = counts[split].get(name, 0) + 1
            for name in sorted(set(names.values())):
                (work / domain / split / name).mkdir(parents=True, exist_ok=True)
    try:
        run_parallel(_write_crops, jobs, workers, "crops", progress)
        work.rename(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts


def _write_crops(job):
    file, folder, things, margin, size = job
    cv2.setNumThreads(1)
    image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise MinicityError(f"{file} cannot be read as an image. Make the city again.")
    stem = file.name.split("_leftImg8bit")[0]
    for number, (box, name) in enumerate(things):
        x, y, side = square_around(box, image.shape[:2], margin)
        crop = cv2.resize(image[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_AREA)
        write_png(folder / name / f"{stem}_{number:03d}.png", crop)


def square_around(box, image_size, margin):
    """The square around a box, inside of the image.

    Args:
        box (4 floats): x, y, width, height in pixels.
        image_size ((int, int)): height and width.
        margin (float): added on each side, as a share of the longer side of the box.

    Returns:
        (int, int, int): left, top and side. The side is at most the image's shorter side.
    """
    x, y, w, h = box
    height, width = image_size
    side = min(round(max(w, h) * (1 + 2 * margin)), height, width)
    left, top = round(x + w / 2 - side / 2), round(y + h / 2 - side / 2)
    return min(max(left, 0), width - side), min(max(top, 0), height - side), side
