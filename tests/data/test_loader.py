"""Mapped images and training batches of two domains."""

import itertools

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils.env import seed_all_rng

from helpers.data import (
    CLASSES,
    COLORS,
    HEIGHT,
    WIDTH,
    load,
    tiny_config,
    write_coco,
    write_image,
    write_two_domains,
)  # fmt: skip
from mic_det.data.loader import build_mic_train_loader
from mic_det.data.mapper import DomainMapper
from mic_det.errors import DataError

pytestmark = pytest.mark.usefixtures("clean_catalogs")

# everything that a labelled set could carry of its labels, under Detectron2's names
LABELS = {"annotations", "instances", "sem_seg", "sem_seg_file_name", "proposals", "pan_seg_file_name"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_two_domains(root)
    return root


def two_domain_cfg(data, folder, **keys):
    return load(folder, tiny_config(data, DATASETS__TARGET=["target_train"], **keys))


def batches(cfg, count, seed=1):
    seed_all_rng(seed)  # what default_setup does with SEED before the loader is built
    return list(itertools.islice(build_mic_train_loader(cfg), count))


# --------------------------------------------------------------------------------------- the mapper


def test_target_images_lose_every_label_that_their_set_has(data, tmp_path):
    cfg = two_domain_cfg(data, tmp_path, DATASETS__TEST=["target_train"])  # else they are not even read
    mapper = DomainMapper(cfg, True, "target")
    for labelled in DatasetCatalog.get("target_train"):
        assert labelled["annotations"], "the set is labelled, or this test proves nothing"
        labelled["sem_seg_file_name"] = "a/file/that/does/not/exist.png"
        mapped = mapper(labelled)
        assert not LABELS & set(mapped)
        assert mapped["domain"] == "target"
        assert set(mapped) == {"file_name", "image_id", "height", "width", "image", "domain"}
        assert labelled["annotations"], "the catalog's dict is left as it was"


def test_source_images_keep_their_boxes(data, tmp_path):
    cfg = two_domain_cfg(data, tmp_path)
    record = DatasetCatalog.get("source_train")[0]
    mapped = DomainMapper(cfg, True, "source")(record)
    assert mapped["domain"] == "source"
    assert mapped["instances"].gt_classes.tolist() == [a["category_id"] for a in record["annotations"]]


@pytest.mark.parametrize("flip, axis", [("horizontal", 2), ("vertical", 1)])
def test_flips_move_boxes_with_their_pixels(tmp_path, flip, axis):
    """A bright rectangle on black: the transformed box must hold all of it, and nothing else."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[10:34, 60:90] = 255  # off centre on both axes, so that each flip moves it
    write_image(tmp_path / "bright.png", picture)
    write_coco(tmp_path / "set.json", [("bright.png", WIDTH, HEIGHT)], [(0, 1, (60, 10, 30, 24))])
    entry = {"one_box": {"JSON": str(tmp_path / "set.json"), "IMAGES": str(tmp_path)}}
    cfg = load(tmp_path, tiny_config(
        tmp_path, DATASETS__CUSTOM=entry, DATASETS__TRAIN=["one_box"], INPUT__RANDOM_FLIP=flip,
        INPUT__MIN_SIZE_TRAIN=[2 * HEIGHT], INPUT__MAX_SIZE_TRAIN=2 * WIDTH,
    ))  # fmt: skip
    mapper = DomainMapper(cfg, True, "source")
    (record,) = DatasetCatalog.get("one_box")
    seed_all_rng(3)
    starts = set()
    for _ in range(12):
        mapped = mapper(record)
        assert mapped["image"].shape == (3, 2 * HEIGHT, 2 * WIDTH)
        x0, y0, x1, y1 = (round(v) for v in mapped["instances"].gt_boxes.tensor[0].tolist())
        image = mapped["image"].float()
        inside = image[:, y0:y1, x0:x1]
        assert (x1 - x0, y1 - y0) == (60, 48)
        # enlarging by two blurs one pixel at the border
        assert inside[:, 2:-2, 2:-2].min() == 255
        assert image.sum() - inside.sum() < 0.03 * inside.sum()
        starts.add((x0, y0))
    mirrored = (2 * (WIDTH - 90), 20) if axis == 2 else (120, 2 * (HEIGHT - 34))
    assert starts == {(120, 20), mirrored}, "both the flipped and the unflipped view occur"


@pytest.mark.parametrize("domain", ["source", "target"])
def test_a_truncated_image_is_named(tmp_path, data, domain):
    whole = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))[1].tobytes()
    check_unreadable(tmp_path, data, domain, whole[: len(whole) // 2])


@pytest.mark.parametrize("content", [b"these are words, not pixels\n", b""])
def test_a_file_that_is_no_image_is_named(tmp_path, data, content):
    check_unreadable(tmp_path, data, "target", content)


def check_unreadable(folder, data, domain, content):
    broken = folder / "bröken.png"
    broken.write_bytes(content)
    mapper = DomainMapper(two_domain_cfg(data, folder), True, domain)
    with pytest.raises(DataError) as caught:
        mapper({"file_name": str(broken), "image_id": 0, "annotations": []})
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_than_annotated_is_named(tmp_path, data):
    write_image(tmp_path / "small.png", np.zeros((32, 48, 3), np.uint8))
    mapper = DomainMapper(two_domain_cfg(data, tmp_path), True, "source")
    record = {"file_name": str(tmp_path / "small.png"), "image_id": 0, "height": 64, "width": 96, "annotations": []}
    with pytest.raises(DataError, match="small.png"):
        mapper(record)


# -------------------------------------------------------------------------------------- the batches


def test_batches_are_source_images_followed_by_target_images(data, tmp_path):
    cfg = two_domain_cfg(data, tmp_path, SOLVER__IMS_PER_BATCH=3, SOLVER__IMS_PER_BATCH_TARGET=2)
    seen = {"source": set(), "target": set()}
    for batch in batches(cfg, 8):
        assert [x["domain"] for x in batch] == ["source"] * 3 + ["target"] * 2
        for x in batch:
            assert f"/{x['domain']}/images/train_" in x["file_name"]
            assert ("instances" in x) == (x["domain"] == "source")
            assert x["domain"] == "source" or not LABELS & set(x)
            seen[x["domain"]].add(x["file_name"])
    assert {k: len(v) for k, v in seen.items()} == {"source": 8, "target": 8}, "every image has its turn"


def test_boxes_of_a_batch_lie_on_rectangles_of_their_class(data, tmp_path):
    """End to end, flips included: the colour below each box is the one of its class."""
    names = np.array(COLORS)
    for batch in batches(two_domain_cfg(data, tmp_path, SOLVER__IMS_PER_BATCH=4), 6):
        for x in batch[:4]:
            for box, label in zip(x["instances"].gt_boxes.tensor.round().int().tolist(), x["instances"].gt_classes):
                x0, y0, x1, y1 = box
                pixels = x["image"][:, y0:y1, x0:x1].reshape(3, -1).float().numpy()  # RGB, as INPUT.FORMAT says
                assert np.abs(pixels.T - names[label]).max() == 0, CLASSES[label]


def test_without_target_sets_batches_are_source_alone(data, tmp_path):
    cfg = load(tmp_path, tiny_config(data, SOLVER__IMS_PER_BATCH=3))
    (batch,) = batches(cfg, 1)
    assert [x["domain"] for x in batch] == ["source"] * 3


def test_same_seed_gives_the_same_batches(data, tmp_path):
    cfg = two_domain_cfg(data, tmp_path)
    first, again, other = batches(cfg, 6), batches(cfg, 6), batches(cfg, 6, seed=2)
    names = [[x["file_name"] for x in b] for b in first]
    assert names == [[x["file_name"] for x in b] for b in again]
    assert all(torch.equal(x["image"], y["image"]) for a, b in zip(first, again) for x, y in zip(a, b))
    assert names != [[x["file_name"] for x in b] for b in other]


def test_a_folder_without_sizes_can_be_the_target(data, tmp_path):
    """Aspect-ratio grouping needs sizes, which are only known once the images of a folder are read."""
    for i, (height, width) in enumerate([(64, 96), (96, 64), (64, 96), (96, 64)]):
        write_image(tmp_path / f"fog/{i}.png", np.full((height, width, 3), 40 * i, np.uint8))
    config = tiny_config(data, DATASETS__TARGET=["only_images"])
    config["DATASETS"]["CUSTOM"]["only_images"] = {"IMAGES": str(tmp_path / "fog")}
    shapes = [[tuple(x["image"].shape) for x in batch[2:]] for batch in batches(load(tmp_path, config), 6)]
    assert all(len(set(pair)) == 1 for pair in shapes), "wide and tall images are not mixed"
    assert len({pair[0] for pair in shapes}) == 2, "but both occur"


def test_wide_and_tall_images_are_not_mixed_within_a_domain(tmp_path):
    images = [(f"{i}.png", *((96, 64) if i % 2 else (64, 96))) for i in range(8)]
    for name, width, height in images:
        write_image(tmp_path / "images" / name, np.zeros((height, width, 3), np.uint8))
    write_coco(tmp_path / "set.json", images, [(i, 0, (5, 5, 30, 30)) for i in range(8)])
    entry = {"mixed": {"JSON": str(tmp_path / "set.json"), "IMAGES": str(tmp_path / "images")}}
    cfg = load(tmp_path, tiny_config(
        tmp_path, DATASETS__CUSTOM=entry, DATASETS__TRAIN=["mixed"], DATASETS__TARGET=["mixed"]
    ))  # fmt: skip
    for batch in batches(cfg, 6):
        for part in (batch[:2], batch[2:]):
            assert len({x["height"] > x["width"] for x in part}) == 1


def test_worker_processes_name_a_broken_image_in_one_line(data, tmp_path):
    """With workers the error crosses a process border; it must arrive as the same short message."""
    (tmp_path / "fog").mkdir()
    (tmp_path / "fog/broken.png").write_bytes(b"no image")
    config = tiny_config(data, DATASETS__TARGET=["only_broken"], DATALOADER__NUM_WORKERS=1)
    config["DATASETS"]["CUSTOM"]["only_broken"] = {"IMAGES": str(tmp_path / "fog")}
    with pytest.raises(DataError) as caught:
        batches(load(tmp_path, config), 1)
    assert "broken.png" in str(caught.value)
    assert "Traceback" not in str(caught.value)
