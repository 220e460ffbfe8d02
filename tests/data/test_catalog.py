"""Declared data sets: what is registered, loaded and counted, and what is refused."""

import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from helpers.data import load_with_sets, write_coco, write_image, write_two_images
from mic_det.data.custom_sets import register_declared_datasets, resolve_path
from mic_det.data.run_sets import check_datasets
from mic_det.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("clean_catalogs")

PICTURE = np.full((40, 60, 3), 128, np.uint8)


@pytest.fixture
def labelled(tmp_path):
    write_two_images(tmp_path)
    return tmp_path


# ------------------------------------------------------------------ what is registered and loaded


def test_declared_coco_set_loads_boxes_and_sorted_classes(labelled):
    load_with_sets(labelled, {"t_train": (labelled / "set.json", labelled / "images")})
    first, second = DatasetCatalog.get("t_train")
    assert first["file_name"] == str(labelled / "images/a.png")
    assert second["file_name"] == str(labelled / "images/sub/b.png")
    assert (first["height"], first["width"]) == (40, 60)
    # category ids 3 and 7 become 0 and 1, in the order of the ids
    assert MetadataCatalog.get("t_train").thing_classes == ["bus", "car"]
    assert [a["category_id"] for a in first["annotations"] + second["annotations"]] == [1, 0, 1, 1]
    assert first["annotations"][0]["bbox"] == [1, 2, 10, 20]
    assert first["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS
    assert MetadataCatalog.get("t_train").evaluator_type == "coco"


def test_folder_alone_lists_every_image_recursively_and_nothing_else(tmp_path):
    for name in ("b.png", "a.JPG", "deep/er/c.jpeg"):
        write_image(tmp_path / "images" / name, PICTURE)
    (tmp_path / "images/notes.txt").write_text("no picture")
    load_with_sets(tmp_path, {"t_fog": ("", tmp_path / "images")})
    dicts = DatasetCatalog.get("t_fog")
    found = [os.path.relpath(d["file_name"], tmp_path / "images") for d in dicts]
    assert sorted(found) == ["a.JPG", "b.png", os.path.join("deep", "er", "c.jpeg")]
    assert len({d["image_id"] for d in dicts}) == 3
    assert not any("annotations" in d for d in dicts)


@pytest.mark.parametrize("absent", ["annotations", "categories"])
def test_json_without_labels_is_an_unlabelled_set(labelled, absent):
    write_coco(labelled / "plain.json", [("a.png", 60, 40)], [], changes={absent: None})
    load_with_sets(labelled, {"t_fog": (labelled / "plain.json", labelled / "images")})
    assert DatasetCatalog.get("t_fog") == [
        {"file_name": str(labelled / "images/a.png"), "image_id": 1, "height": 40, "width": 60}
    ]


def test_relative_paths_are_below_detectron2_datasets(labelled, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(labelled))
    load_with_sets(labelled, {"t_train": ("set.json", "images")})
    assert DatasetCatalog.get("t_train")[0]["file_name"] == str(labelled / "images/a.png")
    assert MetadataCatalog.get("t_train").json_file == str(labelled / "set.json")
    assert MetadataCatalog.get("t_train").image_root == str(labelled / "images")


def test_paths_know_home_variables_and_the_default_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("FOG", "/big/disk")
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert str(resolve_path("~/x.json")) == "/home/somebody/x.json"
    assert str(resolve_path("$FOG/x.json")) == "/big/disk/x.json"
    assert str(resolve_path("${FOG}/x.json")) == "/big/disk/x.json"
    assert str(resolve_path("x.json")) == os.path.join("datasets", "x.json")
    assert str(resolve_path("/abs/x.json")) == "/abs/x.json"


def test_home_and_variables_work_inside_detectron2_datasets(monkeypatch):
    # a shell does not expand "~" in `export DETECTRON2_DATASETS="~/data"`, nor does a Dockerfile's ENV
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert str(resolve_path("x.json")) == "/home/somebody/data/x.json"


def test_non_ascii_names_of_folders_files_and_classes(tmp_path):
    folder = tmp_path / "数据 ñandú"
    write_image(folder / "bilder/straße.png", PICTURE)
    write_coco(folder / "märkte.json", [("straße.png", 60, 40)], [(0, 0, (1, 1, 5, 5))], classes=("автобус", "voiture"))
    cfg = load_with_sets(tmp_path, {"t_train": (folder / "märkte.json", folder / "bilder")})
    (line,) = check_datasets(cfg)
    assert DatasetCatalog.get("t_train")[0]["file_name"] == str(folder / "bilder/straße.png")
    assert "автобус 1, voiture 0" in line


def test_registering_never_touches_the_disk(tmp_path):
    cfg = load_with_sets(tmp_path, {"t_train": (tmp_path / "nowhere.json", tmp_path / "nowhere")})
    assert "t_train" in DatasetCatalog.list()
    with pytest.raises(DataError):  # only loading does
        DatasetCatalog.get("t_train")
    register_declared_datasets(cfg)


def test_declaring_again_replaces_the_set(labelled):
    write_image(labelled / "other/z.png", PICTURE)
    load_with_sets(labelled, {"t_train": (labelled / "set.json", labelled / "images")})
    assert len(DatasetCatalog.get("t_train")) == 2
    load_with_sets(labelled, {"t_train": ("", labelled / "other")})
    (only,) = DatasetCatalog.get("t_train")
    assert only["file_name"] == str(labelled / "other/z.png")
    # neither the old file nor the old classes remain
    assert MetadataCatalog.get("t_train").get("json_file") is None
    assert MetadataCatalog.get("t_train").get("thing_classes") is None


def test_a_name_that_was_registered_elsewhere_is_not_taken_over(labelled):
    DatasetCatalog.register("t_foreign", lambda: ["kept"])
    with pytest.raises(ConfigError, match=r"DATASETS\.CUSTOM\.t_foreign"):
        load_with_sets(labelled, {"t_foreign": ("", labelled / "images")})
    assert DatasetCatalog.get("t_foreign") == ["kept"]


# ---------------------------------------------------------------------------- the summary's counts


def test_summary_lines_count_images_boxes_and_boxes_per_class(labelled):
    write_image(labelled / "fog/a.png", PICTURE)
    cfg = load_with_sets(
        labelled,
        {"t_train": (labelled / "set.json", labelled / "images"), "t_fog": ("", labelled / "fog")},
        DATASETS__TARGET=["t_fog"],
        DATASETS__TEST=["t_train"],
    )
    train, test, target = check_datasets(cfg)
    # by hand: two images; the crowd box is no object; one bus, two cars
    assert train.split() == ["TRAIN", "t_train:", "2", "images,", "3", "boxes", "(bus", "1,", "car", "2)"]
    assert test.split()[0] == "TEST" and test.split()[1:] == train.split()[1:]
    assert target.startswith("TARGET t_fog: 1 images") and "not used" in target


def test_evaluation_alone_needs_no_training_sets(labelled):
    cfg = load_with_sets(
        labelled,
        {"t_val": (labelled / "set.json", labelled / "images")},
        DATASETS__TRAIN=["t_never_declared"],
        DATASETS__TARGET=["t_never_declared"],
        DATASETS__TEST=["t_val"],
    )
    line, note = check_datasets(cfg, training=False)
    assert line.startswith("TEST   t_val: 2 images") and "classes of the model" in note and "t_val" in note
