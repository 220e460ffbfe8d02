"""One judgement of an image: EXIF, sizes, modes, strips, bombs; in check, training and prediction alike."""

import copy
import io
import json
import os

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from helpers.data import load, tiny_config
from helpers.faults import check_refused, run_program
from mic_det.data.audit import open_image
from mic_det.data.mapper import DomainMapper
from mic_det.data.pixels import (
    ImageError,
    Resize,
    check_image,
    check_label_map,
)
from mic_det.errors import DataError

TRAIN, CHECK = "tools/train_net.py", "datasets/check.py"
RULE = Resize((96,), 192, "TEST")


def write(path, size=(48, 32), orientation=None, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    Image.fromarray(pixels).convert(mode).save(path, exif=exif, **options)
    return str(path)


# ------------------------------------------------------------------------------------------ EXIF and sizes


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [None, *range(0, 10)])
def test_the_size_is_that_of_what_detectron2_reads(tmp_path, orientation, suffix):
    file = write(tmp_path / f"a.{suffix}", orientation=orientation)
    height, width = read_image(file, "RGB").shape[:2]
    assert check_image(file, decode=True).size == (width, height)
    assert check_image(file, annotated=(width, height)).size == (width, height)
    if (width, height) != (48, 32):
        with pytest.raises(ImageError, match="32 x 48 pixels once it is turned upright.*EXIF.*48 x 32"):
            check_image(file, annotated=(48, 32))
    with pytest.raises(ImageError, match="annotated as 40 x 32: do images and annotations belong together"):
        check_image(file, annotated=(40, 32))


@pytest.fixture
def turned(scene):
    """The source's training images as a phone writes them: turned in the file, with a tag that turns them back."""
    content = json.loads(scene.json.read_text())
    for x in content["images"]:
        file = scene.root / "source/images" / x["file_name"]
        exif = Image.Exif()
        exif[274] = 6
        with Image.open(file) as image:
            lying = image.transpose(Image.Transpose.ROTATE_90)
            upright = np.asarray(image.convert("RGB")).copy()
        lying.save(file, exif=exif)
        with Image.open(file) as image:
            assert (
                image.size == (64, 96) and (np.asarray(ImageOps.exif_transpose(image).convert("RGB")) == upright).all()
            )
    return scene


def test_images_annotated_upright_are_sound_and_boxes_stay_on_their_objects(turned):
    """The handed case. Boxes lie on the pixels that they lay on before the images were turned in the file."""
    config = turned.config(SOLVER__MAX_ITER=1, DATASETS__TEST=[])
    code, text = run_program(CHECK, "--config-file", config, "--workers", 1)
    assert code == 0 and "no problems" in text and "96 x 64" in text, text
    code, text = run_program(TRAIN, "--config-file", config)
    assert code == 0 and "Traceback" not in text, text[-3000:]


def test_images_annotated_as_they_lie_in_the_file_are_refused(turned):
    content = json.loads(turned.json.read_text())
    for x in content["images"]:
        x["width"], x["height"] = x["height"], x["width"]
    content["annotations"] = [{**a, "bbox": [1, 1, 20, 20]} for a in content["annotations"]]
    turned.json.write_text(json.dumps(content))
    for program, extra in ((CHECK, ["--workers", 1]), (TRAIN, [])):
        config = turned.config(SOLVER__MAX_ITER=1, DATASETS__TEST=[])
        parts = ["source/images/train_", "96 x 64 pixels", "EXIF", "64 x 96", "remove the tag"]
        check_refused(program, ["--config-file", config, *extra], parts)


def test_images_flipped_by_their_tag_are_noted(scene):
    """Size cannot tell whether boxes were drawn before or after."""
    write(scene.image, (96, 64), orientation=3, quality=90, format="JPEG")
    config = scene.config(DATASETS__TEST=[])
    code, text = run_program(CHECK, "--config-file", config, "--workers", 1)
    assert code == 0 and "1 images are flipped or turned by half by their EXIF tag" in text, text


def test_sizes_that_a_target_set_tells_do_not_count(scene):
    """Its annotations are placeholders; an image has its own size."""
    path = scene.root / "target/train.json"
    content = json.loads(path.read_text())
    for x in content["images"]:
        x["width"], x["height"] = 640, 480
    path.write_text(json.dumps({"images": content["images"]}))
    keys = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"], "DATASETS__TEST": []}
    config = scene.config(SOLVER__MAX_ITER=1, **keys)
    for program, extra in ((CHECK, ["--workers", 1]), (TRAIN, [])):
        code, text = run_program(program, "--config-file", config, *extra)
        assert code == 0 and "640" not in text, text[-3000:]


# ----------------------------------------------------------------------------------------------- strips


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1200), st.integers(1, 2000))
def test_a_size_is_refused_exactly_where_the_resized_image_has_a_side_of_0(width, height, shorter, longer):
    from detectron2.data.transforms import ResizeShortestEdge

    resized = ResizeShortestEdge(shorter, longer).get_transform(np.zeros((height, width, 0)))
    rule = Resize((shorter,), longer, "TEST")
    if min(resized.new_h, resized.new_w) > 0:
        rule.check(width, height)
    else:
        with pytest.raises(ImageError, match=f"{width} x {height} pixels"):
            rule.check(width, height)


def test_images_that_are_not_resized_have_no_limit():
    Resize((0,), 192, "TEST").check(3000, 4)


def test_a_strip_is_named_by_check_and_training_and_skipped_in_prediction(scene):
    """The handed case: 3000 x 4 pixels become 192 x 0."""
    for i in range(8):
        write(scene.root / f"target/images/train_{i}.png", (3000, 4))
    sets = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"], "DATASETS__TEST": []}
    sizes = {"INPUT__MIN_SIZE_TRAIN": [96], "INPUT__MAX_SIZE_TRAIN": 192, "INPUT__MIN_SIZE_TEST": 96}
    path = scene.root / "target/train.json"
    path.write_text(json.dumps({"images": json.loads(path.read_text())["images"]}))
    config = scene.config(SOLVER__MAX_ITER=1, **sets, **sizes, INPUT__MAX_SIZE_TEST=192)
    parts = ["target/images/train_", "3000 x 4 pixels", "MIN_SIZE_TRAIN", "192 x 0"]
    check_refused(CHECK, ["--config-file", config, "--workers", 1], parts)
    check_refused(TRAIN, ["--config-file", config], parts)


# ------------------------------------------------------------------------------- files that are no images


def test_bombs_pipes_and_folders_are_refused_without_being_opened(tmp_path, monkeypatch):
    bomb = write(tmp_path / "bomb.png", (64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # PIL refuses from twice as many
    with pytest.raises(ImageError, match="cannot be read .*bomb"):
        check_image(bomb)
    assert "bomb" in open_image((bomb, None, RULE))[2]
    os.mkfifo(tmp_path / "pipe.png")
    for judge in (check_image, check_label_map):
        with pytest.raises(ImageError, match="not an ordinary file"):
            judge(tmp_path / "pipe.png")
        with pytest.raises(ImageError, match="folder"):
            judge(str(tmp_path))
        with pytest.raises(ImageError, match="missing"):
            judge(tmp_path / "nothing.png")
    assert "not an ordinary file" in open_image((str(tmp_path / "pipe.png"), None, RULE))[2]


def test_what_is_no_image_is_said_without_the_address_of_an_object(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"^cannot be read \(it is no image that PIL knows\)$"):
        check_image(io.BytesIO((tmp_path / "a.jpg").read_bytes()), decode=True)


def test_transparency_and_cmyk_are_noted(scene):
    write(scene.image, (96, 64), mode="RGBA")
    write(scene.root / "source/images/train_1.png", (96, 64), mode="CMYK", format="JPEG")
    code, text = run_program(CHECK, "--config-file", scene.config(DATASETS__TEST=[]), "--workers", 1)
    assert code == 0 and "1 images have transparency" in text and "1 images are CMYK" in text, text


# ------------------------------------------------------------------------------------------ what is blamed


def mapper_of(scene, **keys):
    return DomainMapper(load(scene.root, tiny_config(scene.root, **keys)), True, "source")


def record(scene, *annotations, size=(96, 64)):
    file = write(scene.image, size)
    return {"file_name": file, "image_id": 0, "width": 96, "height": 64, "annotations": list(annotations)}


def box(**more):
    return {"bbox": [10, 10, 30, 30], "bbox_mode": 0, "category_id": 0, **more}


SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
RLE = {"size": [64, 96], "counts": [0, 100, 6044]}
BLAMED = {
    "RLE": ([box(segmentation=RLE)], "run-length encoded .* set INPUT.MASK_FORMAT bitmask"),
    "missing": ([box(segmentation=SQUARE), box()], "1 of the 2 boxes of image .*train_0.png have no mask"),
    "odd": ([box(segmentation=SQUARE), box(segmentation=[[1, 2, 3]])], r"box \[10, 10, 30, 30\] in image .*train_0"),
}


@pytest.mark.parametrize("name", BLAMED)
def test_a_mask_that_cannot_be_used_is_blamed_and_not_the_file(scene, name):
    annotations, message = BLAMED[name]
    mapper = mapper_of(scene, MODEL__MASK_ON=True)
    with pytest.raises(DataError, match=message) as caught:
        mapper(record(scene, *annotations))
    assert "cannot read" not in str(caught.value)


def test_sound_masks_are_mapped(scene):
    x = record(scene, box(segmentation=SQUARE))
    before = copy.deepcopy(x)
    assert len(mapper_of(scene, MODEL__MASK_ON=True)(x)["instances"]) == 1
    assert x == before


def test_errors_of_the_code_are_not_blamed_on_a_file(scene, monkeypatch):
    mapper = mapper_of(scene)

    def broken(_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(mapper, "augmentations", broken)
    with pytest.raises(RuntimeError, match="^CUDA out of memory"):
        mapper(record(scene, box()))
