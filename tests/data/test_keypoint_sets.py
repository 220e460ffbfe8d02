"""Keypoints of any COCO file: metadata, what a training image has after resizing and flipping, and refusals."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from helpers.data import load, tiny_config, write_two_domains
from helpers.keypoints import HEAD, NAMES, add_keypoints, keypoints_of
from mic_det.data.keypoints import flip_map, hflip_indices, keypoint_classes, keypoint_lines
from mic_det.data.mapper import DomainMapper
from mic_det.data.run_sets import check_datasets
from mic_det.errors import ConfigError, DataError
from mic_det.evaluation.evaluators import make_evaluators

KEYS = {**HEAD, "DATASETS__TRAIN": ["source_train"], "DATASETS__TEST": ["source_val"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    write_two_domains(root)
    for file in root.glob("*/*.json"):
        add_keypoints(file)
    return root


@pytest.fixture(autouse=True)
def clean(clean_catalogs):
    pass


def changed(root, tmp_path, change, **keys):
    """A config whose training set has a changed file."""
    content = json.loads((root / "source/train.json").read_text())
    change(content)
    (tmp_path / "changed.json").write_text(json.dumps(content))
    config = tiny_config(root, tmp_path / "out", **{**KEYS, **keys})
    config["DATASETS"]["CUSTOM"]["source_train"]["JSON"] = str(tmp_path / "changed.json")
    return load(tmp_path, config)


def test_names_that_differ_in_their_side_change_places():
    names = ["nose", "left_eye", "right_eye", "Left Hip", "Right Hip", "left_only"]
    assert flip_map(names) == [("left_eye", "right_eye"), ("Left Hip", "Right Hip")]


def test_metadata_are_those_of_the_categories(root, tmp_path):
    check_datasets(load(tmp_path, tiny_config(root, tmp_path / "out", **KEYS)))
    meta = MetadataCatalog.get("source_train")
    assert meta.keypoint_names == list(NAMES) and meta.keypoint_classes == ["red", "green"]
    assert keypoint_classes("source_train") == [0, 1] and hflip_indices("source_train") == [0, 2, 1]
    assert keypoint_lines("source_train") == [(1, 0), (0, 2)]


@pytest.mark.parametrize("flip", ["none", "horizontal"])
@pytest.mark.parametrize("size", [64, 128])
def test_keypoints_follow_their_image(root, tmp_path, flip, size):
    keys = {**KEYS, "INPUT__RANDOM_FLIP": flip, "INPUT__MIN_SIZE_TRAIN": [size], "INPUT__MAX_SIZE_TRAIN": 2 * size}
    cfg = load(tmp_path, tiny_config(root, tmp_path / "out", **keys))
    plain = load(tmp_path, tiny_config(root, tmp_path / "out", **{**keys, "INPUT__RANDOM_FLIP": "none"}))
    mapper, scale = DomainMapper(cfg), size / 64
    flips = 0
    for d in DatasetCatalog.get("source_train"):
        image = DomainMapper(plain)(d)["image"]
        for _ in range(6):
            x = mapper(d)
            flipped = not torch.equal(x["image"], image)
            assert not flipped or torch.equal(x["image"], image.flip(2))
            flips += flipped
            found, width = x["instances"].gt_keypoints.tensor, image.shape[2]
            assert found.shape == (len(d["annotations"]), 3, 3)
            for rows, a in zip(found.tolist(), d["annotations"]):
                if a["category_id"] == 2:  # blue rectangles have none
                    assert rows == [[0, 0, 0]] * 3
                    continue
                expected = np.reshape(keypoints_of(a["bbox"]), (3, 3)) + (0.5, 0.5, 0)
                expected[:, :2] *= scale
                if flipped:
                    expected[:, 0] = width - expected[:, 0]
                    expected = expected[[0, 2, 1]]  # the left end is on the other side now, and is called right
                np.testing.assert_allclose(rows, expected, atol=1e-4)
    assert (flips > 5) == (flip == "horizontal")


def test_a_point_outside_of_a_crop_is_none(root, tmp_path):
    keys = {**KEYS, "INPUT__CROP__ENABLED": True, "INPUT__CROP__TYPE": "absolute", "INPUT__CROP__SIZE": [40, 40],
            "INPUT__RANDOM_FLIP": "none", "INPUT__MIN_SIZE_TRAIN": [40], "INPUT__MAX_SIZE_TRAIN": 40}  # fmt: skip
    mapper, seen = DomainMapper(load(tmp_path, tiny_config(root, tmp_path / "out", **keys))), []
    for d in DatasetCatalog.get("source_train") * 3:
        x = mapper(d)["instances"]
        if not len(x):
            continue
        rows = x.gt_keypoints.tensor
        inside = ((rows[:, :, :2] >= 0) & (rows[:, :, :2] <= 40)).all(dim=2)
        assert inside.all() and not rows[rows[:, :, 2] == 0].any()
        seen += rows[:, :, 2].flatten().tolist()
    assert {0.0, 1.0, 2.0} == set(seen)


def test_target_images_have_no_keypoints_and_a_model_of_boxes_ignores_them(root, tmp_path):
    cfg = load(tmp_path, tiny_config(root, tmp_path / "out", **KEYS))
    d = DatasetCatalog.get("source_train")[0]
    assert {"instances", "annotations"}.isdisjoint(DomainMapper(cfg, domain="target")(d))
    boxes = load(tmp_path, tiny_config(root, tmp_path / "out", DATASETS__TRAIN=["source_train"]))
    assert set(DomainMapper(boxes)(d)["instances"].get_fields()) == {"gt_boxes", "gt_classes"}
    assert check_datasets(boxes)


def no_keypoints(content):
    for a in content["annotations"]:
        a.pop("keypoints", None)


def no_names(content):
    for c in content["categories"]:
        c.pop("keypoints", None)


def other_names_in_a_class(content):
    content["categories"][1]["keypoints"] = ["a", "b", "c"]


def too_short(content):
    next(a for a in content["annotations"] if "keypoints" in a)["keypoints"] = [1, 2, 2]


def other_order(content):
    for c in content["categories"][:2]:
        c["keypoints"] = list(reversed(NAMES))


@pytest.mark.parametrize("change, error, message", [
    (no_keypoints, DataError, r"source_train \(DATASETS.TRAIN\) has no keypoints.*set MODEL.KEYPOINT_ON False"),
    (no_names, DataError, "source_train: its keypoints have no names.*same list 'keypoints'"),
    (other_names_in_a_class, DataError, "or those of two classes differ"),
    (too_short, DataError, "has 3 numbers in 'keypoints', not 3 for each of the 3 keypoints"),
    (other_order, DataError, r"source_val \(DATASETS.TEST\) has the keypoints middle.*but source_train has right_end"),
])  # fmt: skip
def test_files_that_cannot_teach_keypoints_are_refused(root, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        check_datasets(changed(root, tmp_path, change))


@pytest.mark.parametrize("keys, error, message", [
    ({"MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 5, "TEST__KEYPOINT_OKS_SIGMAS": [0.1] * 5}, DataError,
     r"has 3 keypoints \(middle, left_end, right_end\).*NUM_KEYPOINTS is 5: set it to 3"),
    ({"TEST__KEYPOINT_OKS_SIGMAS": []}, ConfigError, "KEYPOINT_OKS_SIGMAS has 0 values.*NUM_KEYPOINTS is 3"),
    ({"TEST__KEYPOINT_OKS_SIGMAS": [0.1, 0.0, 0.1]}, ConfigError, "TEST.KEYPOINT_OKS_SIGMAS is .*above 0"),
    ({"TEST__KEYPOINT_PCK_SHARE": 0.0}, ConfigError, "TEST.KEYPOINT_PCK_SHARE is 0.0"),
])  # fmt: skip
def test_settings_that_do_not_fit_the_set_are_refused(root, tmp_path, keys, error, message):
    with pytest.raises(error, match=message):
        check_datasets(load(tmp_path, tiny_config(root, tmp_path / "out", **{**KEYS, **keys})))


def test_a_detector_without_a_keypoint_head_needs_no_keypoints(tmp_path):
    write_two_domains(tmp_path)
    keys = {**KEYS, "MODEL__META_ARCHITECTURE": "RetinaNet", "MODEL__RETINANET__NUM_CLASSES": 3,
            "TEST__KEYPOINT_OKS_SIGMAS": []}  # fmt: skip
    cfg = load(tmp_path, tiny_config(tmp_path, tmp_path / "out", **keys))
    assert check_datasets(cfg) and len(make_evaluators(cfg, "source_val")) == 1
    assert "gt_keypoints" not in DomainMapper(cfg)(DatasetCatalog.get("source_train")[0])["instances"].get_fields()
