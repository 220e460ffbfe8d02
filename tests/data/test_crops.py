"""Crops that look at labels: limits of a class's area, wanted classes, the place in the chain, sizes of domains."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng
from PIL import Image

from helpers.data import load, tiny_config, write_image
from mic_det.data.crops import LabelledCrop
from mic_det.data.mapper import DomainMapper

W, H = 200, 120


def config(folder, **keys):
    keys = {
        "MODEL__META_ARCHITECTURE": "MIC", "MODEL__MIC__STUDENT": "SemanticSegmentor",
        "MODEL__SEM_SEG_HEAD": {"NUM_CLASSES": 4, "IGNORE_VALUE": 255}, "DATASETS__TARGET": ["target_train"],
        "INPUT__MIN_SIZE_TRAIN": [60], "INPUT__MAX_SIZE_TRAIN": 1000, "INPUT__RANDOM_FLIP": "none", **keys,
    }  # fmt: skip
    return load(folder, tiny_config(folder, **keys))


@pytest.fixture
def record(tmp_path):
    """Half of the picture is 0, a third 1; a small square is 3, and a strip is ignored."""
    labels = np.zeros((H, W), np.uint8)
    labels[:, 100:170], labels[:, 170:], labels[40:64, 30:54] = 1, 255, 3
    Image.fromarray(labels).save(tmp_path / "labels.png")
    write_image(tmp_path / "image.png", np.stack([labels * 60] * 3, axis=2))
    return {"file_name": str(tmp_path / "image.png"), "sem_seg_file_name": str(tmp_path / "labels.png"), "image_id": 1}


def crop(**keys):
    return {"INPUT__CROP": {"ENABLED": True, "TYPE": "absolute", "SIZE": [32, 32], **keys}}


def mapped(mapper, record, seeds=40):
    for seed in range(seeds):
        seed_all_rng(seed)
        yield mapper(record)


def test_detectron2s_own_crop_stays_as_it_was(record, tmp_path):
    cfg = config(tmp_path, **crop())
    ours, theirs = DomainMapper(cfg), DatasetMapper(cfg)
    assert ours.crop is None
    for x, y in zip(mapped(ours, record, 5), mapped(theirs, record, 5)):
        assert torch.equal(x["image"], y["image"]) and x["image"].shape[1:] == (60, 60)


def test_crops_after_resizing_have_the_size_that_the_key_says(record, tmp_path):
    cfg = config(tmp_path, **crop(AFTER_RESIZE=True))
    for x in mapped(DomainMapper(cfg), record, 5):
        assert x["image"].shape[1:] == x["sem_seg"].shape == (32, 32)
        # the labels of these very pixels: 60 grey levels a class, where no edge was blurred
        grey, labels = x["image"][0].float() / 60, x["sem_seg"]
        inside = (labels < 4) & ((grey - grey.round()).abs() < 1e-3)
        assert (grey[inside].round() == labels[inside]).float().mean() > 0.97
    for x in mapped(DomainMapper(cfg, True, "target"), record, 3):
        assert x["image"].shape[1:] == (32, 32) and "sem_seg" not in x


def shares(labels, ignored=255):
    labels = labels[labels != ignored]
    return torch.bincount(labels.flatten()).max().item() / max(labels.numel(), 1)


def test_no_class_covers_more_than_the_limit(record, tmp_path):
    """One of five crops is across an edge: ten tries miss all of them once in ten times."""
    free = [shares(x["sem_seg"]) for x in mapped(DomainMapper(config(tmp_path, **crop(AFTER_RESIZE=True))), record)]
    keys = crop(AFTER_RESIZE=True, SINGLE_CATEGORY_MAX_AREA=0.75)
    limited = [shares(x["sem_seg"]) for x in mapped(DomainMapper(config(tmp_path, **keys)), record)]
    assert sum(x >= 0.75 for x in free) > 30 and sum(x >= 0.75 for x in limited) <= 6


def test_crops_are_drawn_again_until_they_show_enough_of_the_drawn_class(record, tmp_path):
    keys = {"DATALOADER": {"SAMPLER_TRAIN": "RareClassSampler", "RARE_CLASSES": {"MIN_CROP_PIXELS": 60}}}
    mapper = DomainMapper(config(tmp_path, **crop(AFTER_RESIZE=True), **keys))
    of_class = [(x["sem_seg"] == 3).sum().item() for x in mapped(mapper, {**record, "rare_class": 3})]
    others = [(x["sem_seg"] == 3).sum().item() for x in mapped(mapper, {**record, "rare_class": 0})]
    assert sum(n > 60 for n in of_class) >= 38 and sum(n > 60 for n in others) < 30
    # what was wanted of the last image is forgotten
    plain = DomainMapper(config(tmp_path, **crop(AFTER_RESIZE=True), **keys))
    for x, y in zip(mapped(mapper, record, 5), mapped(plain, record, 5)):
        assert torch.equal(x["image"], y["image"])


def test_at_most_ten_further_tries_where_a_class_is_not_there():
    crop, tries = LabelledCrop("absolute", (4, 4), 1.0, 255, 3), []
    crop.crop.get_transform = lambda image, labels: tries.append(1) or T.CropTransform(0, 0, 4, 4)
    crop.wanted = 2
    crop.get_transform(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    assert len(tries) == 11  # the first crop, and ten more


def test_margins_follow_the_crop(record, tmp_path):
    keys = {**crop(AFTER_RESIZE=True), "MODEL__MIC__SEM_SEG": {"MARGINS": [0, 0, 0.5, 0]}}
    rows, columns = np.indices((H, W))
    write_image(tmp_path / "image.png", np.stack([columns, rows, rows * 0], axis=2).astype(np.uint8))
    for x in mapped(DomainMapper(config(tmp_path, **keys), True, "target"), record, 10):
        column = x["image"][0].float()
        certain = (column - 99.5).abs() > 2.5
        assert torch.equal(x["valid_pixels"][certain], (column > 99.5)[certain])


def test_each_domain_has_its_size(record, tmp_path):
    cfg = config(tmp_path, INPUT__MIN_SIZE_TRAIN_TARGET=[30], INPUT__MAX_SIZE_TRAIN_TARGET=48)
    seed_all_rng(0)
    assert DomainMapper(cfg, True, "source")(record)["image"].shape[1:] == (60, 100)
    assert DomainMapper(cfg, True, "target")(record)["image"].shape[1:] == (29, 48)
    assert DomainMapper(cfg, True, "target").resize.longer == 48
    cfg = config(tmp_path, INPUT__MIN_SIZE_TRAIN_TARGET=[30])
    assert DomainMapper(cfg, True, "target")(record)["image"].shape[1:] == (30, 50)
