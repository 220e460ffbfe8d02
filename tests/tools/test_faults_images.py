"""Damaged images and label maps, through the real programs: each ends with one line that names the file."""

import io
import os

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from helpers.data import forget_registered_sets, load, tiny_config
from helpers.faults import check_refused, pixel_keys, run_program

TRAIN, CHECK = "tools/train_net.py", "datasets/check.py"


def picture(mode, size=(96, 64), suffix="PNG"):
    """An encoded image of a PIL mode, as bytes."""
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray((pixels[:, :, 0].astype(np.uint16)) * 200)
    elif mode == "F":
        image = Image.fromarray(pixels[:, :, 0].astype(np.float32))
    else:
        image = Image.fromarray(pixels).convert(mode)
    image.save(out, suffix)
    return out.getvalue()


# what becomes of an image file, and what the message says beside its name
DAMAGED = {
    "truncated": (lambda content: content[: len(content) // 2], "cannot"),
    "cut in its head": (lambda content: content[:20], "cannot"),
    "zero bytes": (lambda content: b"", "cannot"),
    "text": (lambda content: b"<html>404 Not Found</html>", "cannot"),
    "another size": (lambda content: picture("RGB", (50, 40)), "50 x 40"),
    "16 bits": (lambda content: picture("I;16"), "16"),
    "real numbers": (lambda content: picture("F", suffix="TIFF"), "8 bits"),
    "missing": (None, "missing"),
    "a folder": ("folder", ""),
}


def save_new_detector(scene):
    """``good.pth``, weights that fit the scene's config."""
    with forget_registered_sets():
        torch.save(build_model(load(scene.root, tiny_config(scene.root))).state_dict(), scene.root / "good.pth")


def damage(file, change):
    content = file.read_bytes()
    if callable(change):
        file.write_bytes(change(content))
        return
    file.unlink()
    if change == "folder":
        file.mkdir()


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("program", [TRAIN, CHECK])
def test_a_damaged_image_is_named(scene, program, name):
    change, part = DAMAGED[name]
    for i in range(8):
        damage(scene.root / f"source/images/train_{i}.png", change)
    config = scene.config(SOLVER__MAX_ITER=3)
    extra = ["--workers", 1] if program == CHECK else []
    check_refused(program, ["--config-file", config, *extra], ["source/images/train_", part])


ODD = {
    "grey": lambda: picture("L"), "grey and alpha": lambda: picture("LA"), "alpha": lambda: picture("RGBA"),
    "palette": lambda: picture("P"), "black and white": lambda: picture("1"),
    "CMYK": lambda: picture("CMYK", suffix="JPEG"),
}  # fmt: skip


def test_unusual_but_sound_images_are_trained_on(scene):
    """Detectron2 reads them as RGB; a suffix that lies does not matter."""
    for i, make in enumerate(ODD.values()):
        (scene.root / f"source/images/train_{i}.png").write_bytes(make())
    config = scene.config(SOLVER__MAX_ITER=1, SOLVER__IMS_PER_BATCH=8, DATASETS__TEST=[])
    code, text = run_program(CHECK, "--config-file", config, "--workers", 1)
    assert code == 0, text
    code, text = run_program(TRAIN, "--config-file", config)
    assert code == 0 and "Traceback" not in text, text[-3000:]
    assert (scene.root / "output/model_final.pth").is_file()


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
@pytest.mark.parametrize("program", [TRAIN, CHECK])
def test_a_damaged_label_map_is_named(scene, program, name):
    change, part = LABEL_MAPS[name]
    for i in range(8):
        damage(scene.root / f"source/labels/train_{i}.png", change)
    config = scene.config(SOLVER__MAX_ITER=3, **pixel_keys(scene.root))
    extra = ["--workers", 1] if program == CHECK else []
    part = {"size": "shape"}.get(part, part) if program == CHECK else part
    check_refused(program, ["--config-file", config, *extra], ["source/labels/train_", part])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_test_image_is_named_in_one_line_whoever_reads_it(scene, workers):
    """A loader's worker process sends a traceback as its message."""
    for i in range(4):
        damage(scene.root / f"target/images/val_{i}.png", DAMAGED["truncated"][0])
    save_new_detector(scene)
    args = ["--config-file", scene.config(DATALOADER__NUM_WORKERS=workers), "--eval-only"]
    check_refused(TRAIN, [*args, "MODEL.WEIGHTS", scene.root / "good.pth"], ["target/images/val_", "cannot"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_target_image_is_named(scene, workers):
    for i in range(8):
        damage(scene.root / f"target/images/train_{i}.png", DAMAGED["text"][0])
    keys = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"]}
    config = scene.config(SOLVER__MAX_ITER=3, DATALOADER__NUM_WORKERS=workers, **keys)
    check_refused(TRAIN, ["--config-file", config], ["target/images/train_", "cannot"])


def test_prediction_skips_and_names_what_it_cannot_read_and_reads_the_rest(scene):
    save_new_detector(scene)
    inputs = scene.root / "inputs"
    inputs.mkdir()
    unreadable = [name for name in DAMAGED if callable(DAMAGED[name][0]) and name != "another size"]
    for name in unreadable:
        (inputs / f"{name}.png").write_bytes(DAMAGED[name][0](scene.image.read_bytes()))
    args = ["--config-file", scene.config(), "--output", scene.root / "found", "--input", inputs]
    check_refused("tools/predict.py", [*args, "MODEL.WEIGHTS", scene.root / "good.pth"], ["none of the 6"])
    for name, make in ODD.items():
        (inputs / f"{name}.png").write_bytes(make())
    code, text = run_program("tools/predict.py", *args, "MODEL.WEIGHTS", scene.root / "good.pth")
    assert code == 0 and f"{len(ODD)} images" in text and "Traceback" not in text, text[-3000:]
    assert all(f"inputs/{name}.png: " in text for name in unreadable)
    pictures = [p.name for p in (scene.root / "found/pictures").iterdir()]
    assert sorted(pictures) == sorted(f"{name}.png.jpg" for name in ODD)


def test_prediction_skips_whatever_cannot_be_used(scene, monkeypatch):
    """A strip that is resized to a side of 0, a bomb, a pipe, a missing link: each is named, the rest is predicted."""
    save_new_detector(scene)
    inputs = scene.root / "inputs"
    inputs.mkdir()
    (inputs / "strip.png").write_bytes(picture("RGB", (3000, 4)))
    (inputs / "bomb.png").write_bytes(picture("RGB", (1500, 20)))
    (inputs / "gone.png").symlink_to(inputs / "nowhere")
    os.mkfifo(inputs / "pipe.png")
    (inputs / "sound.png").write_bytes(picture("RGB"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 14_000)
    args = ["--config-file", scene.config(INPUT__MIN_SIZE_TEST=64, INPUT__MAX_SIZE_TEST=96), "--input", inputs]
    args += ["--output", scene.root / "found", "--format", "pictures,csv", "MODEL.WEIGHTS", scene.root / "good.pth"]
    code, text = run_program("tools/predict.py", *args)
    assert code == 0 and "1 images" in text and "4 skipped" in text and "Traceback" not in text, text[-3000:]
    assert "strip.png: is 3000 x 4 pixels" in text and "96 x 0" in text
    assert "pipe.png: is not an ordinary file" in text and "gone.png: is missing" in text and "bomb.png: " in text
    assert [p.name for p in (scene.root / "found/pictures").iterdir()] == ["sound.png.jpg"]
