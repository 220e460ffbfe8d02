"""The full check finds each kind of defect, and nothing where there is none."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.cityscapes import write_cityscapes
from helpers.data import (
    declared,
    forget_registered_sets,
    load,
    run_tool_here,
    tiny_config,
    write_config,
    write_image,
    write_two_domains,
)
from mic_det.data.audit import check_config_datasets, format_reports

ROLES = {
    "MODEL__META_ARCHITECTURE": "MIC",
    "DATASETS__TRAIN": ["source_train"],
    "DATASETS__TARGET": ["target_train"],
    "DATASETS__TEST": ["target_val"],
}


@pytest.fixture
def root(tmp_path):
    write_two_domains(tmp_path)
    with forget_registered_sets():
        yield tmp_path


def check(root, **changes):
    """(problems of all sets and between them, notes, reports)."""
    cfg = load(root, tiny_config(root, **{**ROLES, **changes}))
    reports, problems = check_config_datasets(cfg, workers=1, progress=False)
    return problems + [p for r in reports for p in r.problems], [n for r in reports for n in r.notes], reports


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_nothing_is_wrong(root):
    problems, _, reports = check(root)
    assert problems == []
    assert [(r.role, r.images, r.boxes) for r in reports] == [("TRAIN", 8, 16), ("TARGET", 8, 0), ("TEST", 4, 8)]
    table = format_reports(reports)
    assert "TRAIN        8       16  96 x 64" in table and "source_train" in table


def damage(root, kind):
    """One defect; returns what must be said about it."""
    image = root / "source/images/train_3.png"
    json_file = root / "target/val.json"
    if kind == "truncated":
        image.write_bytes(image.read_bytes()[:2000])
        return "train_3.png cannot be read"
    if kind == "not an image":
        image.write_text("hello")
        return "train_3.png cannot be read"
    if kind == "missing":
        image.unlink()
        return "train_3.png is missing"
    if kind == "other size":
        write_image(image, np.zeros((32, 48, 3), np.uint8))
        return "train_3.png is 48 x 32 pixels, annotated as 96 x 64"
    if kind == "classes":
        edit(json_file, lambda c: c["categories"].reverse())
        edit(json_file, lambda c: [x.update(name="x" + x["name"]) for x in c["categories"]])
        return "target_val.*has the classes"
    if kind == "listed twice":
        edit(json_file, lambda c: c["images"].append({**c["images"][0], "id": 99}))
        return "1 files are listed more than once"
    if kind == "empty JSON":
        json_file.write_text("{}")
        return "lists no images"
    if kind == "cut JSON":
        json_file.write_text(json_file.read_text()[:50])
        return "is not a readable JSON"
    if kind == "test copied to target":
        shutil.copy(root / "target/images/val_0.png", root / "target/images/train_0.png")
        return "1 test images are in DATASETS.TARGET too"
    raise AssertionError(kind)


KINDS = ["truncated", "not an image", "missing", "other size", "classes", "listed twice", "empty JSON", "cut JSON",
         "test copied to target"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_defect_is_the_one_that_is_named(root, kind):
    import re

    message = damage(root, kind)
    problems, _, _ = check(root)
    assert len(problems) == 1 and re.search(message, problems[0]), problems


def test_all_bad_boxes_are_listed(root):
    def spoil(content):
        content["annotations"][0]["bbox"] = [0, 0, 0, 5]
        content["annotations"][3]["bbox"] = [200, 0, 5, 5]
        content["annotations"][5]["category_id"] = 77

    edit(root / "target/val.json", spoil)
    problems, _, _ = check(root)
    assert [next(w for w in ("without area", "outside", "category 77") if w in p) for p in problems] == [
        "without area", "outside", "category 77"
    ]  # fmt: skip


def test_what_is_odd_but_usable_is_noted(root):
    def spoil(content):
        content["annotations"][0]["bbox"] = [90, 10, 20, 20]
        content["annotations"][1]["bbox"] = [10, 10, 1.5, 20]
        for a in content["annotations"]:
            a["category_id"] = 1

    edit(root / "target/val.json", spoil)
    problems, notes, _ = check(root)
    assert problems == []
    assert any("1 boxes reach outside" in n for n in notes) and any("1 boxes have a side" in n for n in notes)
    assert any("no box of green, blue" in n for n in notes)
    assert any("4 images beside the listed ones" in n for n in notes)  # train's, in the same folder


def test_test_images_in_the_source(root):
    problems, _, _ = check(root, DATASETS__TEST=["source_train"])
    assert len(problems) == 1 and "8 test images are in DATASETS.TRAIN too" in problems[0]


def test_an_unknown_set_and_a_missing_role(root):
    problems, _, _ = check(root, DATASETS__TEST=["nobody"], DATASETS__TARGET=[])
    assert any("nobody is neither registered" in p for p in problems) and any("DATASETS.TARGET" in p for p in problems)


def test_the_program_exits_with_1_where_something_is_wrong(root, monkeypatch, capsys):
    file = write_config(root / "run.yaml", tiny_config(root, DATASETS__CUSTOM=declared(root), **ROLES))
    for damaged in (False, True):
        if damaged:
            (root / "source/images/train_0.png").write_bytes(b"")
        with pytest.raises(SystemExit) as caught:
            run_tool_here("../datasets/check.py", "--config-file", file, "--workers", 1, monkeypatch=monkeypatch)
        out = capsys.readouterr().out
        assert caught.value.code == int(damaged) and ("no problems" in out) != damaged
    assert "problem: source_train: " in out and "train_0.png cannot be read" in out and "1 problems" in out


def test_cityscapes_names_are_checked_too(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = write_cityscapes(tmp_path / "cityscapes", betas=("0.02",))
    names = dict(
        DATASETS__CUSTOM={}, MODEL__ROI_HEADS__NUM_CLASSES=8, DATASETS__TRAIN=["cityscapes_det_train"],
        DATASETS__TARGET=["cityscapes_foggy_0.02_train"], DATASETS__TEST=["cityscapes_foggy_0.02_val"],
    )  # fmt: skip
    problems, _, reports = check(tmp_path, **names)
    assert problems == [] and [r.images for r in reports] == [4, 4, 4]
    (root / "leftImg8bit_foggy/val/zürich/zürich_000001_000019_leftImg8bit_foggy_beta_0.02.png").write_bytes(b"x")
    problems, _, _ = check(tmp_path, **names)
    assert len(problems) == 1 and "beta_0.02.png cannot be read" in problems[0]


def test_label_maps_are_opened_too(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = write_cityscapes(tmp_path / "cityscapes", betas=("0.02",))
    names = dict(
        DATASETS__CUSTOM={}, DATASETS__TRAIN=["cityscapes_det_train"],
        DATASETS__TARGET=["cityscapes_foggy_0.02_train"],
        DATASETS__TEST=["cityscapes_foggy_0.02_val"], MODEL__META_ARCHITECTURE="MIC",
        MODEL__MIC__STUDENT="SemanticSegmentor", MODEL__SEM_SEG_HEAD__NUM_CLASSES=19,
        MODEL__SEM_SEG_HEAD__IGNORE_VALUE=255,
    )  # fmt: skip
    assert check(tmp_path, **names)[0] == []
    file = root / "gtFine/val/zürich/zürich_000001_000019_gtFine_labelTrainIds.png"
    for label, size, message in ((33, (40, 60), "has the label 33"), (0, (4, 6), "has the shape")):
        Image.fromarray(np.full(size, label, np.uint8)).save(file)
        problems = check(tmp_path, **names)[0]
        assert len(problems) == 1 and "000001_000019_gtFine_labelTrainIds.png" in problems[0] and message in problems[0]
    file.write_bytes(b"x")
    assert "cannot be read" in check(tmp_path, **names)[0][0]
