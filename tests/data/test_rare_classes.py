"""Rare class sampling: frequencies against the formula, counts and their cache, and streams that go on anywhere."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from PIL import Image

from helpers.data import load
from helpers.models import tiny_cfg
from helpers.resume import run_config
from mic_det.data import rare_classes
from mic_det.data.label_maps import cache_folder
from mic_det.data.loader import build_mic_train_loader
from mic_det.data.rare_classes import (
    RareClassSampler,
    class_probabilities,
    count_classes,
    rare_class_sampler,
    split_index,
)
from mic_det.errors import DataError

# pixels of four classes in five images
COUNTS = np.array([[900, 90, 0, 10], [950, 50, 0, 0], [800, 150, 50, 0], [990, 0, 0, 10], [400, 0, 600, 0]])
SHARES = [4040 / 5000, 290 / 5000, 650 / 5000, 20 / 5000]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def softmax(scores):
    weights = [math.exp(s) for s in scores]
    return [w / sum(weights) for w in weights]


def drawn(sampler, count):
    return [split_index(x, sampler.images) for x in itertools.islice(sampler, count)]


# ------------------------------------------------------------------------------------------------ the formula


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_probabilities_are_those_of_the_paper(temperature):
    expected = softmax([(1 - f) / temperature for f in SHARES])
    assert class_probabilities(COUNTS.sum(axis=0), temperature) == pytest.approx(expected)


def test_a_class_without_a_pixel_has_no_probability():
    found = class_probabilities([30, 0, 70], 0.5)
    assert found == pytest.approx([softmax([1.4, 0.6])[0], 0, softmax([1.4, 0.6])[1]])


def test_frequencies_over_10000_draws():
    """Within four standard deviations of a binomial count; images of a class are equally frequent."""
    sampler, n = RareClassSampler(COUNTS, 0.2, min_pixels=9, seed=3), 10_000
    found = drawn(sampler, n)
    expected = softmax([(1 - f) / 0.2 for f in SHARES])
    enough = [[0, 1, 2, 3, 4], [0, 1, 2], [2, 4], [0, 3]]
    for c, p in enumerate(expected):
        times = sum(k == c for _, k in found)
        assert abs(times - n * p) < 4 * math.sqrt(n * p * (1 - p)), c
        images = [i for i, k in found if k == c]
        assert set(images) == set(enough[c])
        for i in enough[c]:
            share = 1 / len(enough[c])
            assert abs(images.count(i) - times * share) < 4 * math.sqrt(times * share * (1 - share)), (c, i)


def test_images_with_too_few_pixels_of_a_class_are_not_drawn_for_it(caplog):
    found = drawn(RareClassSampler(COUNTS, 0.2, min_pixels=50, seed=1), 3000)
    assert {i for i, c in found if c == 1} == {0, 2} and {i for i, c in found if c == 2} == {4}
    assert 3 not in {c for _, c in found} and "of the classes [3]: they are not drawn" in caplog.text
    # the others keep their proportions
    p = softmax([(1 - f) / 0.2 for f in SHARES[:3]])
    assert sum(c == 0 for _, c in found) / 3000 == pytest.approx(p[0], abs=0.02)
    with pytest.raises(DataError, match="no source image has more than 990 pixels of any class"):
        RareClassSampler(COUNTS, 0.2, min_pixels=990, seed=1)
    with pytest.raises(DataError, match="no source image has more than 0 pixels of any class"):
        RareClassSampler(np.zeros((2, 3), np.int64), 0.01, 0, seed=0)  # all pixels are ignored


def test_the_stream_depends_on_the_seed_alone_and_processes_take_turns(monkeypatch):
    def stream(rank, world, seed=4):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world)
        return list(itertools.islice(RareClassSampler(COUNTS, 0.2, 9, seed=seed), 60))

    whole = stream(0, 1)
    assert stream(0, 1) == whole and stream(0, 1, seed=5) != whole
    assert stream(1, 3)[:20] == whole[1:60:3]


# ------------------------------------------------------------------------------------------------ counting


def write_maps(folder):
    rng, dicts = np.random.default_rng(0), []
    for i in range(3):
        labels = rng.choice([0, 1, 7, 255], (20, 30), p=[0.6, 0.3, 0.05, 0.05]).astype(np.uint8)
        Image.fromarray(labels).save(folder / f"{i}.png")
        dicts.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(folder / f"{i}.png")})
    return dicts


def test_pixels_are_counted_once_and_again_after_a_change(tmp_path, monkeypatch):
    dicts, calls = write_maps(tmp_path), []
    count = rare_classes._count
    monkeypatch.setattr(rare_classes, "_count", lambda file: (calls.append(file), count(file))[1])
    found = count_classes(dicts, progress=False)
    for row, x in zip(found, dicts):
        labels = np.asarray(Image.open(x["sem_seg_file_name"]))
        assert row.sum() == 600 and all(row[c] == (labels == c).sum() for c in (0, 1, 7, 255))
    assert np.array_equal(count_classes(dicts, progress=False), found) and len(calls) == 3
    reordered = count_classes(dicts[::-1], progress=False)
    assert np.array_equal(reordered, found[::-1])
    calls.clear()
    Image.fromarray(np.full((20, 30), 4, np.uint8)).save(tmp_path / "1.png")
    changed = count_classes(dicts, progress=False)
    assert len(calls) == 3 and changed[1, 4] == 600 and np.array_equal(changed[0], found[0])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", None])
def test_a_damaged_cache_is_made_again(tmp_path, content):
    dicts = write_maps(tmp_path)
    found = count_classes(dicts, progress=False)
    (file,) = cache_folder(tmp_path).glob("class_counts_*.npz")
    if content is None:  # of another data set
        np.savez(file, counts=found[:2])
    else:
        file.write_bytes(content)
    assert np.array_equal(count_classes(dicts, progress=False), found)
    assert np.array_equal(np.load(file)["counts"], found)


def test_missing_and_unsuitable_label_maps_are_named(tmp_path):
    dicts = write_maps(tmp_path)
    with pytest.raises(DataError, match=r"image x.jpg has no label map, which .*RareClassSampler needs"):
        count_classes([*dicts, {"file_name": "x.jpg"}])
    Image.new("RGB", (3, 3)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"1.png is not 8-bit grey but PIL's RGB"):
        count_classes(dicts, progress=False)
    Path(tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cannot read label map .*1.png"):
        count_classes(dicts, progress=False)


# ------------------------------------------------------------------------------------------------ in a loader

KEYS = {
    "MODEL__META_ARCHITECTURE": "MIC", "MODEL__MIC__STUDENT": "SemanticSegmentor", "DATASETS__TARGET": ["fog"],
    "MODEL__SEM_SEG_HEAD": {"NUM_CLASSES": 4, "CONVS_DIM": 8, "NORM": "", "IN_FEATURES": ["p2"], "IGNORE_VALUE": 255},
    "DATALOADER": {"SAMPLER_TRAIN": "RareClassSampler", "NUM_WORKERS": 0, "FILTER_EMPTY_ANNOTATIONS": False,
                   "RARE_CLASSES": {"TEMPERATURE": 0.1, "MIN_PIXELS": 100, "MIN_CROP_PIXELS": 100}},
    "INPUT__MIN_SIZE_TRAIN": [64], "INPUT__CROP": {"ENABLED": True, "TYPE": "absolute", "SIZE": [32, 32],
                                                   "AFTER_RESIZE": True},
}  # fmt: skip


def taken(cfg, start, count):
    seed_all_rng(1)
    loader = build_mic_train_loader(cfg)
    if start:
        sizes = {"source": 2, "target": 2}
        loader.load_state_dict({"seed": 0, "batches": {k: start for k in sizes}, "batch_size": sizes})
    loader.seed = 5
    batches = list(itertools.islice(loader, count))
    return [[(x["file_name"], x.get("rare_class"), int(x["image"].sum()), x["domain"]) for x in b] for b in batches]


def test_a_training_draws_rare_classes_of_the_source_and_goes_on_anywhere(data, tmp_path):
    cfg = load(tmp_path, run_config(data, tmp_path, **KEYS))
    whole = taken(cfg, 0, 24)
    assert taken(cfg, 9, 6) == whole[9:15]
    cfg.DATALOADER.NUM_WORKERS = 1
    assert taken(cfg, 0, 4) == whole[:4]
    sources = [x for batch in whole for x in batch[:2]]
    # of each image, a file has one class beside the ground (0)
    assert all(c in (0, 1 + int(Path(file).stem) % 3) for file, c, *_ in sources)
    assert {c for _, c, *_ in sources} == {1, 2, 3}, "nine of ten pixels are ground, which is hardly drawn"
    assert all(c is None and domain == "target" for batch in whole for _, c, _, domain in batch[2:])


def test_wide_and_tall_images_are_not_mixed(data, tmp_path):
    cfg = load(tmp_path, run_config(data, tmp_path, **{**KEYS, "INPUT__CROP": {"ENABLED": False}}))
    seed_all_rng(1)
    for batch in itertools.islice(build_mic_train_loader(cfg), 20):
        shapes = {x["image"].shape[1] <= x["image"].shape[2] for x in batch[:2]}
        assert len(shapes) == 1


def test_ignored_labels_and_those_beyond_the_classes_do_not_count(tmp_path):
    dicts = write_maps(tmp_path)
    cfg = tiny_cfg(MODEL__SEM_SEG_HEAD__NUM_CLASSES=5, MODEL__SEM_SEG_HEAD__IGNORE_VALUE=1,
                   DATALOADER__RARE_CLASSES__MIN_PIXELS=1)  # fmt: skip
    assert rare_class_sampler(cfg, dicts)().probabilities == pytest.approx([1, 0, 0, 0, 0])
