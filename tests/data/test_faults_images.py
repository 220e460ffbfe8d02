"""Damaged images and label maps: training and the check of data sets name the file."""

import io

import numpy as np
import pytest
from PIL import Image

from helpers.faults import DAMAGED, UNUSUAL, check_problem, check_told, damage, pixel_keys, problems, read_first_images


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_is_named(scene, name):
    change, part = DAMAGED[name]
    for i in range(8):
        damage(scene.root / f"source/images/train_{i}.png", change)
    check_told(["source/images/train_", part], read_first_images, scene.config())
    check_problem(scene.config(), ["source/images/train_", part])


def test_unusual_but_sound_images_are_read(scene):
    """Detectron2 reads them as RGB; a suffix that lies does not matter."""
    for i, make in enumerate(UNUSUAL.values()):
        (scene.root / f"source/images/train_{i}.png").write_bytes(make())
    config = scene.config(SOLVER__IMS_PER_BATCH=8, DATASETS__TEST=[])
    assert problems(config) == []
    assert {x["image"].shape for x in read_first_images(config)} == {(3, 64, 96)}


def labels_as(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def palette():
    out = io.BytesIO()
    image = Image.fromarray(np.ones((64, 96), np.uint8)).convert("P")
    image.save(out, "PNG")
    return out.getvalue()


LABEL_MAPS = {
    "another size": (lambda _: labels_as(np.zeros((40, 50), np.uint8)), "size"),
    "a label too high": (lambda _: labels_as(np.full((64, 96), 7, np.uint8)), "label 7"),
    "in colour": (lambda _: labels_as(np.zeros((64, 96, 3), np.uint8)), "8-bit grey"),
    "of 16 bits": (lambda _: labels_as(np.zeros((64, 96), np.uint16)), "8-bit grey"),
    "of a palette": (lambda _: palette(), "8-bit grey"),
    "truncated": (lambda content: content[: len(content) // 2], "cannot"),
    "text": (lambda _: b"no labels here", "cannot"),
    "missing": (None, "missing"),
}


@pytest.mark.parametrize("name", LABEL_MAPS)
def test_a_damaged_label_map_is_named(scene, name):
    change, part = LABEL_MAPS[name]
    for i in range(8):
        damage(scene.root / f"source/labels/train_{i}.png", change)
    config = scene.config(**pixel_keys(scene.root))
    check_told(["source/labels/train_", part], read_first_images, config)
    check_problem(config, ["source/labels/train_", {"size": "shape"}.get(part, part)])
