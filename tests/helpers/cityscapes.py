"""A small Cityscapes in its true file formats, written by tests."""

import json

import cv2
import numpy as np
from PIL import Image, ImageDraw

SIZE = (40, 60)  # height, width
# (label, corners), back to front; axis-aligned, so that their pixels can be told without drawing them
SCENES = {
    "000000": [
        ("road", (0, 20, 59, 39)), ("car", (5, 10, 24, 25)), ("person", (20, 8, 29, 30)), ("cargroup", (40, 5, 55, 9)),
    ],
    "000001": [("sky", (0, 0, 59, 9))],  # nothing to detect
    "000002": [("bicycle", (2, 2, 11, 12)), ("bicycle", (30, 20, 44, 35)), ("license plate", (32, 22, 34, 24))],
    "000003": [("train", (10, 10, 50, 30)), ("caravan", (12, 12, 20, 20)), ("car", (0, 0, 9, 9))],
}  # fmt: skip
# label ids, from the data set's own description
IDS = {"road": 7, "sky": 23, "person": 24, "car": 26, "caravan": 29, "train": 31, "bicycle": 33}
# boxes (x, y, width, height) of what is seen, by hand: the person hides the car's right part
BOXES = {
    "000000": [("car", (5, 10, 15, 16)), ("person", (20, 8, 10, 23))],
    "000001": [],
    "000002": [("bicycle", (2, 2, 10, 11)), ("bicycle", (30, 20, 15, 16))],
    "000003": [("car", (0, 0, 10, 10)), ("train", (10, 10, 41, 21))],
}
CAMERA = {"extrinsic": {"baseline": 0.2}, "intrinsic": {"fx": 50.0, "fy": 50.0, "u0": 30.0, "v0": 20.0}}


def write_cityscapes(root, splits=("train", "val"), city="zürich", annotations=("polygons", "instanceIds"), betas=()):
    """Write ``leftImg8bit``, ``gtFine`` and, for each beta, ``leftImg8bit_foggy`` below ``root``."""
    for split in splits:
        for number, objects in SCENES.items():
            stem = f"{split}/{city}/{city}_{number}_000019"
            # colours of their own: images of different splits must not be copies of each other
            rng = np.random.default_rng([int(number), len(split)])
            image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            _png(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", image)
            for beta in betas:
                _png(root / "leftImg8bit_foggy" / f"{stem}_leftImg8bit_foggy_beta_{beta}.png", image // 2 + 100)
            if "polygons" in annotations:
                polygons = [
                    {"label": label, "polygon": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]}
                    for label, (x0, y0, x1, y1) in objects
                ]
                content = {"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": polygons}
                file = root / "gtFine" / f"{stem}_gtFine_polygons.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(content), encoding="utf-8")
            if "instanceIds" in annotations:
                _png(root / "gtFine" / f"{stem}_gtFine_instanceIds.png", instance_ids(objects).astype(np.uint16))
    return root


def instance_ids(objects):
    """An instance map by slicing, without drawing polygons."""
    ids, counts = np.zeros(SIZE, np.int32), {}
    for label, (x0, y0, x1, y1) in objects:
        if label == "license plate":
            continue  # its pixels are the vehicle's
        value = IDS[label.replace("group", "")]
        if label in ("person", "car", "caravan", "train", "bicycle"):
            counts[label] = counts.get(label, -1) + 1
            value = value * 1000 + counts[label]
        ids[y0 : y1 + 1, x0 : x1 + 1] = value
    return ids


def write_depth(root, disparity, splits=("val",), city="zürich", camera=CAMERA):
    """Disparity (16 bit) and camera files for the images of :func:`write_cityscapes`."""
    for split in splits:
        for number in SCENES:
            stem = f"{split}/{city}/{city}_{number}_000019"
            file = root / "disparity" / f"{stem}_disparity.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(".png", disparity)[1].tobytes())
            file = root / "camera" / f"{stem}_camera.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(camera), encoding="utf-8")


def _png(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def triangle(size=(50, 50)):
    """A polygon file's content with one triangular car, and the same triangle as PIL draws it."""
    corners = [(3, 40), (25, 4), (45, 33)]
    image = Image.new("L", size[::-1])
    ImageDraw.Draw(image).polygon(corners, fill=1)
    objects = [{"label": "car", "polygon": [list(c) for c in corners]}]
    return {"imgHeight": size[0], "imgWidth": size[1], "objects": objects}, np.asarray(image) > 0
