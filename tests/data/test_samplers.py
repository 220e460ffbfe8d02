"""Which images are in which batch, and how they are flipped and scaled, is fixed by seed and place alone."""

import collections
import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.data import build_batch_data_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils.env import seed_all_rng
from PIL import Image

from helpers.data import load
from helpers.resume import MIC, run_config
from mic_det.data.loader import build_mic_train_loader
from mic_det.data.samplers import AspectRatios, BatchPlan
from mic_det.utils.random_state import get_random_state, seeded, set_random_state

SIZES = [(30, 20), (20, 30), (30, 20), (25, 25), (30, 20), (20, 30), (31, 30)]  # width, height
DICTS = [{"file_name": f"{i}", "width": w, "height": h} for i, (w, h) in enumerate(SIZES)]


def samplers():
    factors = torch.tensor([1.0, 2.5, 1.0, 1.3, 3.0, 1.0, 1.0])
    return [TrainingSampler(7, seed=3), RepeatFactorTrainingSampler(factors, seed=4)]


# -------------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("grouped", [True, False])
def test_batches_are_those_of_detectron2(which, grouped):
    """Its own loader, which decides after images are read, is the reference."""
    items = [{**d, "index": i} for i, d in enumerate(DICTS)]
    theirs = build_batch_data_loader(items, samplers()[which], 3, aspect_ratio_grouping=grouped)
    plan = BatchPlan(samplers()[which], 3, AspectRatios(DICTS) if grouped else None)
    for ours, batch in itertools.islice(zip(plan, theirs), 40):
        assert [index for _, index in ours] == [x["index"] for x in batch]


@pytest.mark.parametrize("start", [1, 2, 7, 23])
def test_a_plan_that_starts_later_is_the_same_plan(start):
    """Half-filled groups at the start included: their images come before those that follow."""
    whole = list(itertools.islice(BatchPlan(samplers()[0], 2, AspectRatios(DICTS)), 40))
    assert list(itertools.islice(BatchPlan(samplers()[0], 2, AspectRatios(DICTS), start), 40 - start)) == whole[start:]
    positions = [p for batch in whole for p, _ in batch]
    assert len(set(positions)) == len(positions)


def test_shapes_are_read_from_the_files_where_the_set_does_not_tell_them(tmp_path):
    for i, (width, height) in enumerate(SIZES):
        Image.new("RGB", (width, height)).save(tmp_path / f"{i}.jpg")
    turned = Image.Exif()
    turned[274] = 6  # a quarter turn: shown as 20 wide and 30 tall
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    names = [*(f"{i}.jpg" for i in range(len(SIZES))), "turned.jpg", "broken.jpg"]
    groups = AspectRatios([{"file_name": str(tmp_path / name)} for name in names])
    assert [groups(i) for i in range(9)] == [0, 1, 0, 1, 0, 1, 0, 1, 1]
    for file in tmp_path.iterdir():
        file.unlink()
    assert [groups(i) for i in range(7)] == [0, 1, 0, 1, 0, 1, 0], "a file is read once"


# -------------------------------------------------------------------------------------- random states


def numbers():
    return random.random(), np.random.rand(), float(torch.rand(()))


def test_random_states_are_put_back():
    seed_all_rng(5)
    numbers()
    state, expected = get_random_state(), numbers()
    seed_all_rng(6)
    set_random_state(state)
    assert numbers() == expected


def test_seeded_numbers_depend_on_the_key_alone_and_leave_no_trace():
    seed_all_rng(5)
    expected = numbers()
    seed_all_rng(5)
    drawn = collections.defaultdict(set)
    for key in [(1, 2), (1, 3), (2, 2), (1, 2), (1, 2, 0)]:
        with seeded(*key):
            drawn[key].add(numbers())
    assert all(len(v) == 1 for v in drawn.values())
    assert all(len({next(iter(v))[i] for v in drawn.values()}) == 4 for i in range(3)), "each generator, each key"
    assert numbers() == expected


# --------------------------------------------------------------------------------------------- loaders


def take(cfg, count, state=None, seed=1):
    """Batches as (file, pixels' sum, shape) of each image, and the loader's state after them."""
    seed_all_rng(seed)
    loader = build_mic_train_loader(cfg)
    if state:
        loader.load_state_dict(state)
    batches = [
        [(x["file_name"], int(x["image"].sum()), tuple(x["image"].shape)) for x in batch]
        for batch in itertools.islice(loader, count)
    ]
    return batches, loader.state_dict()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_where_it_was(data, tmp_path, workers):
    cfg = load(tmp_path, run_config(data, tmp_path, **{**MIC, "INPUT__RANDOM_FLIP": "vertical"}))
    whole, _ = take(cfg, 20)
    cfg.DATALOADER.NUM_WORKERS = workers
    first, state = take(cfg, 9)
    assert first == whole[:9], "the number of workers changes nothing"
    rest, state = take(cfg, 6, state, seed=2)
    assert rest == whole[9:15]
    assert take(cfg, 5, state, seed=3)[0] == whole[15:]
    assert take(cfg, 9, seed=2)[0] != first


def test_the_same_image_is_changed_anew_each_time(data, tmp_path):
    cfg = load(tmp_path, run_config(data, tmp_path, **MIC))
    views = collections.defaultdict(set)
    for batch in take(cfg, 24)[0]:
        for file, *view in batch:
            views[file].add(tuple(view))
    # two sizes, flipped or not: sums tell sizes apart, and flips where rows are resized
    assert len(views) == 14 and all(len({shape for _, shape in v}) == 2 for v in views.values())


def test_taking_batches_leaves_the_training_s_random_numbers_alone(data, tmp_path):
    for workers in (0, 1):
        cfg = load(tmp_path, run_config(data, tmp_path, DATALOADER__NUM_WORKERS=workers))
        seed_all_rng(1)
        loader = build_mic_train_loader(cfg)
        expected, state = None, get_random_state()
        expected = numbers()
        set_random_state(state)
        next(iter(loader))
        assert numbers() == expected


def test_with_another_batch_size_the_stream_goes_on_after_as_many_images(data, tmp_path):
    cfg = load(tmp_path, run_config(data, tmp_path, DATALOADER__ASPECT_RATIO_GROUPING=False))
    whole, state = take(cfg, 4)  # of 2
    cfg.SOLVER.IMS_PER_BATCH = 1
    rest, _ = take(cfg, 2, state)
    seed_all_rng(1)
    expected, _ = take(cfg, 10)
    assert rest == expected[8:]
