"""Labelled target images: which they are, their share of a batch, and that no other label reaches the model."""

import itertools
import json
from pathlib import Path

import pytest
from detectron2.utils.env import seed_all_rng

from helpers.data import declared, load, tiny_config, write_two_domains
from mic_det.data.loader import build_mic_train_loader
from mic_det.data.run_sets import check_datasets
from mic_det.errors import DataError

pytestmark = pytest.mark.usefixtures("clean_catalogs")

MIC = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    write_two_domains(folder)
    return folder


def partly(root, labelled, name="part"):
    """The target's training set, of whose images these (by number) alone have annotations."""
    content = json.loads((root / "target" / "train.json").read_text())
    ids = {x["id"] for x in content["images"] if int(x["file_name"].split("_")[1].split(".")[0]) in labelled}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (root / "target" / f"{name}.json").write_text(json.dumps(content))
    return {name: {"JSON": str(root / "target" / f"{name}.json"), "IMAGES": str(root / "target" / "images")}}


def config(root, tmp_path, **keys):
    keys = {**MIC, "SOLVER__IMS_PER_BATCH_TARGET_LABELLED": 1, **keys}
    return load(tmp_path, tiny_config(root, tmp_path / "out", **keys))


def files_of(cfg):
    """Names of files by domain in the loader."""
    return {d["name"]: {Path(x["file_name"]).stem for x in d["dicts"]} for d in build_mic_train_loader(cfg).domains}


def test_the_annotated_images_of_a_set_are_the_labelled_ones(root, tmp_path):
    custom = {**declared(root), **partly(root, {1, 5})}
    sets = {"DATASETS__TARGET": ["part"], "DATASETS__TARGET_LABELLED": ["part"], "DATASETS__CUSTOM": custom}
    cfg = config(root, tmp_path, **sets)
    files = files_of(cfg)
    assert files["labelled_target"] == {"train_1", "train_5"}
    assert files["target"] == {f"train_{i}" for i in (0, 2, 3, 4, 6, 7)}
    lines = "\n".join(check_datasets(cfg))
    assert "TARGET_LABELLED part: 2 images" in lines and "6 images of DATASETS.TARGET are used without" in lines


def test_a_set_of_its_own_takes_its_images_out_of_the_unlabelled_ones(root, tmp_path):
    custom = {**declared(root), **partly(root, {0, 3}, "own")}
    cfg = config(root, tmp_path, DATASETS__TARGET_LABELLED=["own"], DATASETS__CUSTOM=custom)
    files = files_of(cfg)
    assert files["labelled_target"] == {"train_0", "train_3"} and not files["labelled_target"] & files["target"]


@pytest.mark.parametrize("most, chosen", [(1, {0}), (2, {0, 7}), (3, {0, 3, 7}), (0, set(range(8)))])
def test_a_number_of_labels_is_spread_evenly(root, tmp_path, most, chosen):
    keys = {"DATASETS__TARGET_LABELLED": ["target_train"], "DATASETS__TARGET_LABELLED_IMAGES": most}
    if not most:  # no image is left for the masked loss
        with pytest.raises(DataError, match="all 8 images of DATASETS.TARGET are labelled"):
            check_datasets(config(root, tmp_path, **keys))
        keys |= {"DATASETS__TARGET": [], "MODEL__MIC__CONSISTENCY__WEIGHT": 0.0}
    cfg = config(root, tmp_path, **keys)
    files = files_of(cfg)
    assert files["labelled_target"] == {f"train_{i}" for i in chosen}
    assert files.get("target", set()) == ({f"train_{i}" for i in set(range(8)) - chosen} if most else set())


@pytest.mark.parametrize("source", [True, False])
def test_each_batch_has_its_share_and_only_labelled_images_have_labels(root, tmp_path, source):
    keys = {
        "DATASETS__TRAIN": ["source_train"] if source else [],
        "DATASETS__TARGET_LABELLED": ["target_train"], "DATASETS__TARGET_LABELLED_IMAGES": 2,
        "SOLVER__IMS_PER_BATCH_TARGET_LABELLED": 3,
    }  # fmt: skip
    cfg = config(root, tmp_path, **keys)
    seen = set()
    for batch in itertools.islice(build_mic_train_loader(cfg), 12):
        domains = [x["domain"] for x in batch]
        assert domains == ["source"] * 2 * source + ["target"] * 2 + ["labelled_target"] * 3
        assert all(("instances" in x) == (x["domain"] != "target") for x in batch)
        assert not any("annotations" in x for x in batch)
        seen |= {(x["domain"], Path(x["file_name"]).stem) for x in batch if x["domain"] != "source"}
    by_domain = {d: {f for e, f in seen if e == d} for d in ("target", "labelled_target")}
    assert by_domain == {"labelled_target": {"train_0", "train_7"}, "target": {f"train_{i}" for i in range(1, 7)}}


def test_the_source_and_target_streams_are_those_without_labelled_images(root, tmp_path):
    """Labels of other images change nothing in the order of the source."""
    batches = []
    for keys in ({}, {"DATASETS__TARGET_LABELLED": ["target_val"]}):
        seed_all_rng(4)
        batches.append(next(iter(build_mic_train_loader(config(root, tmp_path, **keys)))))
    plain, joined = batches
    names = [[x["file_name"] for x in batch if x["domain"] != "labelled_target"] for batch in (plain, joined)]
    assert names[0] == names[1] and len(joined) == len(plain) + 1


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"DATASETS__TARGET_LABELLED_IMAGES": 9}, "TARGET_LABELLED_IMAGES is 9.*only 8 labelled images"),
        ({"DATASETS__TARGET_LABELLED": ["empty"]}, "empty .*has no image with boxes"),
    ],
)
def test_what_cannot_work_is_refused(root, tmp_path, keys, message):
    custom = {**declared(root), **partly(root, set(), "empty")}
    keys = {"DATASETS__TARGET_LABELLED": ["target_train"], "DATASETS__CUSTOM": custom, **keys}
    with pytest.raises(DataError, match=message):
        check_datasets(config(root, tmp_path, **keys))
