"""Data sets that cannot be used: each is refused with one line that names the file or key, and what to do."""

import pytest
from detectron2.data import DatasetCatalog

from helpers.data import load_with_sets, write_coco, write_two_images
from mic_det.data.run_sets import check_datasets
from mic_det.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("clean_catalogs")


@pytest.fixture
def labelled(tmp_path):
    write_two_images(tmp_path)
    return tmp_path


def one_error(folder, kind, declared, **keys):
    """The single-line message with which ``check_datasets`` refuses the data sets."""
    cfg = load_with_sets(folder, declared, **keys)
    with pytest.raises(kind) as caught:
        check_datasets(cfg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def box_error(labelled, **changes):
    """Load a set of which one annotation is changed; returns the message."""
    annotation = {"id": 41, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0, **changes}
    annotation = {k: v for k, v in annotation.items() if v is not None}
    write_coco(labelled / "bad.json", [("a.png", 60, 40)], [], ("car", "bus"), {"annotations": [annotation]})
    cfg = load_with_sets(labelled, {"t_train": (labelled / "bad.json", labelled / "images")})
    with pytest.raises(DataError) as caught:
        check_datasets(cfg)
    message = str(caught.value)
    assert "\n" not in message and "t_train" in message and str(labelled / "bad.json") in message
    assert "41" in message, "the annotation is named"
    return message


@pytest.mark.parametrize("box", [[3, 3, 0, 5], [3, 3, 5, 0], [3, 3, -4, 5]])
def test_box_without_area_is_refused(labelled, box):
    assert "without area" in box_error(labelled, bbox=box)


@pytest.mark.parametrize("box", [[60, 3, 5, 5], [3, 40, 5, 5], [-9, 3, 9, 5], [3, -9, 5, 9]])
def test_box_outside_its_image_is_refused(labelled, box):
    message = box_error(labelled, bbox=box)
    assert "outside" in message and "60 x 40" in message and "a.png" in message


@pytest.mark.parametrize("box", [[59, 39, 9, 9], [-9, -9, 10, 10]])
def test_box_that_overlaps_its_image_by_a_pixel_is_kept(labelled, box):
    write_coco(labelled / "ok.json", [("a.png", 60, 40)], [(0, 0, box)], classes=("car", "bus"))
    cfg = load_with_sets(labelled, {"t_train": (labelled / "ok.json", labelled / "images")})
    assert "1 boxes" in check_datasets(cfg)[0]


def test_unknown_category_is_refused(labelled):
    assert "category 9" in box_error(labelled, category_id=9)


def test_unknown_image_is_refused(labelled):
    assert "image 99" in box_error(labelled, image_id=99)


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": None},
        {"bbox": [1, 2, 3]},
        {"bbox": "1 2 3 4"},
        {"bbox": [float("nan"), 3, 5, 5]},  # json.dump writes NaN and Infinity
        {"bbox": [3, 3, float("inf"), 5]},
        {"category_id": None},
    ],
)
def test_annotation_with_missing_or_malformed_fields_is_refused(labelled, change):
    assert next(iter(change)) in box_error(labelled, **change)


def test_labelled_images_need_a_size(labelled):
    write_coco(labelled / "bad.json", [], [], changes={"images": [{"id": 1, "file_name": "a.png"}]})
    message = one_error(labelled, DataError, {"t_train": (labelled / "bad.json", labelled / "images")})
    assert "'width'" in message and "a.png" in message


def test_missing_image_folder(labelled):
    message = one_error(labelled, DataError, {"t_train": (labelled / "set.json", labelled / "gone")})
    assert str(labelled / "gone") in message and "DATASETS.CUSTOM.t_train.IMAGES" in message


def test_missing_json(labelled):
    message = one_error(labelled, DataError, {"t_train": (labelled / "gone.json", labelled / "images")})
    assert str(labelled / "gone.json") in message and "DATASETS.CUSTOM.t_train.JSON" in message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": []}', '{"images": {"a": 1}}', '{"images": [{"id": 1}]}', "null"]
)
def test_json_that_is_not_a_coco_file(labelled, text):
    (labelled / "bad.json").write_text(text)
    message = one_error(labelled, DataError, {"t_train": (labelled / "bad.json", labelled / "images")})
    assert str(labelled / "bad.json") in message


def test_json_whose_categories_are_empty(labelled):
    write_coco(labelled / "bad.json", [("a.png", 60, 40)], [], classes=())
    message = one_error(labelled, DataError, {"t_train": (labelled / "bad.json", labelled / "images")})
    assert "t_train" in message


def test_missing_image_is_named(labelled):
    (labelled / "images/sub/b.png").unlink()
    message = one_error(labelled, DataError, {"t_train": (labelled / "set.json", labelled / "images")})
    assert str(labelled / "images/sub/b.png") in message and "t_train" in message


def test_folder_without_images(labelled):
    (labelled / "empty").mkdir()
    message = one_error(
        labelled,
        DataError,
        {"t_train": (labelled / "set.json", labelled / "images"), "t_fog": ("", labelled / "empty")},
        DATASETS__TARGET=["t_fog"],
    )
    assert str(labelled / "empty") in message and "t_fog" in message


def test_registered_target_set_without_images(labelled):
    DatasetCatalog.register("t_nothing", list)
    declared = {"t_train": (labelled / "set.json", labelled / "images")}
    message = one_error(labelled, DataError, declared, DATASETS__TARGET=["t_nothing"])
    assert "t_nothing" in message and "DATASETS.TARGET" in message


def test_unlabelled_set_in_train_is_sent_to_target(labelled):
    message = one_error(labelled, DataError, {"t_train": ("", labelled / "images")})
    assert "t_train" in message and "DATASETS.TARGET" in message


def test_class_lists_that_differ(labelled):
    write_coco(labelled / "val.json", [("a.png", 60, 40)], [(0, 0, (1, 1, 5, 5))], classes=("car", "van"))
    declared = {
        "t_train": (labelled / "set.json", labelled / "images"),
        "t_val": (labelled / "val.json", labelled / "images"),
    }
    message = one_error(labelled, DataError, declared, DATASETS__TEST=["t_val"])
    for part in ("t_train", "t_val", "['bus', 'car']", "['car', 'van']", "'bus' is not listed"):
        assert part in message


def test_number_of_classes_that_differs_from_the_models(labelled):
    declared = {"t_train": (labelled / "set.json", labelled / "images")}
    message = one_error(labelled, DataError, declared, MODEL__ROI_HEADS__NUM_CLASSES=5)
    assert "2 classes" in message and "MODEL.ROI_HEADS.NUM_CLASSES is 5" in message


@pytest.mark.parametrize("key", ["TRAIN", "TARGET", "TEST"])
def test_unknown_set(labelled, key):
    declared = {"t_train": (labelled / "set.json", labelled / "images")}
    message = one_error(labelled, ConfigError, declared, **{f"DATASETS__{key}": ["t_unknwon"]})
    assert f"DATASETS.{key}" in message and "t_unknwon" in message


def test_no_training_set(labelled):
    message = one_error(labelled, ConfigError, {"t_fog": ("", labelled / "images")}, DATASETS__TRAIN=[])
    assert "DATASETS.TRAIN" in message
