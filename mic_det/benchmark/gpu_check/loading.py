"""The files of a check, made on the machine, and how fast the training loader reads them."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from ...data.minicity import make_minicity
from ..data_speed import loader_speed
from .steps import measured_config

FORMATS = ("png", "jpg")
BOXES = 20  # an image, as in Cityscapes
CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


def write_files(settings, save):
    """The miniature city, and images that cost as much to decode as photographs."""
    folder = Path(settings.folder)
    found = {"cores": os.cpu_count()}
    width, height = settings.city_size
    city = make_minicity(folder / "data/minicity", *settings.city, (width, height), progress=False)
    found["city"] = {split: counts["images"] for split, counts in city.items()}
    save(found)
    height, width = settings.file_size
    for form in FORMATS:
        (folder / "images" / form).mkdir(parents=True)
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV and NumPy leave the interpreter to others
        jobs = [(_path(folder, form, i), i) for form in FORMATS for i in range(settings.files)]
        list(pool.map(lambda job: write_image(*job, height, width), jobs))
    for form in FORMATS:
        sizes = [_path(folder, form, i).stat().st_size for i in range(settings.files)]
        found[f"{form}_mib"] = sum(sizes) / len(sizes) / 2**20
        _write_labels(folder / f"{form}.json", form, settings)
    save(found)


def _path(folder, form, number):
    return Path(folder) / "images" / form / f"{number}.{form}"


def write_image(path, seed, height, width):
    """Smooth colours under fine noise: a PNG has about the bytes of one of Cityscapes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3)).astype(np.float32)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture += rng.normal(0, 2, picture.shape).astype(np.float32)
    if not cv2.imwrite(str(path), picture.clip(0, 255).astype(np.uint8)):
        raise OSError(f"cannot write {path}")


def _write_labels(path, form, settings):
    height, width = settings.file_size
    rng = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.{form}", "width": width, "height": height} for i in range(settings.files)]
    annotations = []
    for i in range(settings.files):
        for _ in range(BOXES):
            w, h = (int(rng.integers(8, x // 4)) for x in (width, height))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            annotations.append({
                "id": len(annotations) + 1, "image_id": i, "category_id": int(rng.integers(len(CLASSES))) + 1,
                "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


def measure_loader(settings, save):
    """Images a second of the measured config's loader, with nothing else to do, for numbers of workers."""
    found, images = {"images_per_batch": 2 * settings.images[-1]}, settings.images[-1]
    for form, workers in [("png", n) for n in settings.workers] + [("jpg", settings.workers[-1])]:
        cfg = loader_config(settings, images, form, workers)
        # first what workers prepare before the clock runs: two batches each
        speed = loader_speed(cfg, settings.loaded_batches, warmup=2 * workers + 1)
        found.setdefault(form, {})[str(workers)] = speed
        save(found)


def loader_config(settings, images, form, workers):
    """The measured config on the written images, which are both its source and its target."""
    folder = Path(settings.folder)
    path = str(folder / "images" / form)
    sets = {f"check_{form}": {"JSON": str(folder / f"{form}.json"), "IMAGES": path},
            f"check_{form}_target": {"IMAGES": path}}  # fmt: skip
    height, width = settings.size
    return measured_config(
        settings, images, "DATASETS.CUSTOM", sets, "DATASETS.TRAIN", (f"check_{form}",), "DATASETS.TARGET",
        (f"check_{form}_target",), "DATASETS.TEST", (), "INPUT.MIN_SIZE_TRAIN", (height,), "INPUT.MAX_SIZE_TRAIN",
        width, "DATALOADER.NUM_WORKERS", workers,
    )  # fmt: skip
