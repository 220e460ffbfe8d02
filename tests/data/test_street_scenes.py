"""GTA5, SYNTHIA, Cityscapes, ACDC and Dark Zurich on small trees of the true formats: ids, sets, means, test splits."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from helpers.cityscapes import write_cityscapes
from helpers.data import refusal_here, run_tool_here, write_image
from helpers.models import tiny_cfg
from mic_det.data.datasets.street_scenes import (
    CLASSES_13,
    CLASSES_16,
    CONDITIONS,
    prepare_scenes,
    scene_sets,
)
from mic_det.data.run_sets import check_datasets
from mic_det.errors import DataError
from mic_det.evaluation.evaluators import make_evaluators

PROGRAM = "../datasets/prepare_segmentation.py"
SIZE = (4, 6)
# Cityscapes' train ids in the order of its paper, and the ids of each source from its own description
CLASSES = (
    "road sidewalk building wall fence pole light sign vegetation terrain sky person rider car truck bus train "
    "motorcycle bicycle"
).split()
GTA5 = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
SYNTHIA = [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def picture(path, size=SIZE):
    write_image(path, np.full((*size, 3), 90, np.uint8))


def ids_of(classes):
    """A label map of SIZE with some ids, the others 0 = void."""
    labels = np.zeros(SIZE, np.int64)
    labels.flat[: len(classes)] = classes
    return labels


def write_gta5(root, name, labels):
    picture(root / f"gta5/images/{name}.png")
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette([x for i in range(256) for x in (255 - i, i, 7)])  # colours that are not the ids
    (root / "gta5/labels").mkdir(exist_ok=True)
    image.save(root / f"gta5/labels/{name}.png")


def write_synthia(root, name, labels):
    picture(root / f"synthia/RGB/{name}.png")
    rgb = np.stack([labels, np.arange(labels.size).reshape(SIZE) + 300, 0 * labels], axis=2)  # class, instance, nothing
    file = root / f"synthia/GT/LABELS/{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), rgb[:, :, ::-1].astype(np.uint16))


@pytest.mark.parametrize("folder, ids, write", [("gta5", GTA5, write_gta5), ("synthia", SYNTHIA, write_synthia)])
def test_label_maps_of_synthetic_sources(root, folder, ids, write):
    assert len(ids) == len(CLASSES) == 19
    write(root, "00001", ids_of(ids))
    write(root, "00002", np.full(SIZE, 1 if folder == "gta5" else 13))  # "ego vehicle", "parking slot": not trained
    assert all("sem_seg_file_name" not in x for x in DatasetCatalog.get(f"{folder}_train"))
    assert prepare_scenes(f"{folder}_train", progress=False) == 2
    first, second = DatasetCatalog.get(f"{folder}_train")
    assert first["file_name"].endswith("00001.png") and "annotations" not in first
    made = Image.open(first["sem_seg_file_name"])
    assert made.mode == "L"
    expected = np.full(SIZE, 255)
    expected.flat[:19] = range(19)
    np.testing.assert_array_equal(np.array(made), expected)
    assert (np.array(Image.open(second["sem_seg_file_name"])) == 255).all()
    assert prepare_scenes(f"{folder}_train", progress=False) == 0


def test_a_folder_that_cannot_be_written_leaves_label_maps_in_the_cache(root):
    write_gta5(root, "00001", ids_of(GTA5))
    (root / "gta5/label_maps").write_text("a file where the folder should be")
    assert prepare_scenes("gta5_train", progress=False) == 1
    (x,) = DatasetCatalog.get("gta5_train")
    assert x["sem_seg_file_name"].startswith(str(root / "cache"))


def test_files_that_are_not_as_published_are_named(root):
    write_gta5(root, "00001", ids_of(GTA5))
    picture(root / "gta5/images/00001.png", (5, 6))
    with pytest.raises(DataError, match=r"gta5_train: .*labels/00001.png has the shape \(4, 6\), but its image has"):
        prepare_scenes("gta5_train", progress=False)
    picture(root / "gta5/labels/00001.png")  # colours instead of indices
    with pytest.raises(DataError, match="00001.png is PIL's RGB: labels of GTA5 are 8-bit indices"):
        prepare_scenes("gta5_train", progress=False)
    (root / "gta5/labels/00001.png").unlink()
    with pytest.raises(DataError, match="gta5_train: .*labels/00001.png or its image .* cannot be read"):
        prepare_scenes("gta5_train", progress=False)
    write_synthia(root, "00002", ids_of(SYNTHIA))
    picture(root / "synthia/GT/LABELS/00002.png")  # 8 bit
    with pytest.raises(DataError, match="00002.png is uint8 of the shape .* have 16 bits and three channels"):
        prepare_scenes("synthia_train", progress=False)
    with pytest.raises(DataError, match="acdc_fog_val: there is no folder .*acdc"):
        DatasetCatalog.get("acdc_fog_val")
    (root / "acdc").mkdir()
    with pytest.raises(DataError, match="there is no rgb_anon/fog/val"):
        DatasetCatalog.get("acdc_fog_val")


def test_the_program_makes_maps_and_counts_classes(root, capsys, monkeypatch):
    write_gta5(root, "00001", np.array([[7] * 6, [7] * 6, [26] * 6, [0] * 6]))
    run_tool_here(PROGRAM, "--sets", "gta5_train", "--workers", 1, monkeypatch=monkeypatch)
    printed = capsys.readouterr()
    assert "gta5_train: 1 images, 1 label maps made" in printed.out
    assert "road 66.67%" in printed.out and "car 33.33%" in printed.out and "sky 0.00%" in printed.out
    assert "the public set has 24966 images" in printed.err
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(root / "gta5/label_maps/00001.png")
    message = refusal_here(PROGRAM, "--sets", "gta5_train", "--workers", 1, monkeypatch=monkeypatch)
    assert "00001.png has the label 77: there are 19 classes" in message


def write_scene(root, folder, place, split, stem, labelled=True):
    picture(root / folder / "rgb_anon" / place / f"{stem}_rgb_anon.png")
    if labelled:
        file = root / folder / "gt" / place / f"{stem}_gt_labelTrainIds.png"
        write_image(file, np.zeros((*SIZE, 3), np.uint8))
        Image.fromarray(np.full(SIZE, 13, np.uint8)).save(file)


def test_acdc_and_dark_zurich(root):
    for condition in CONDITIONS:
        for split in ("train", "val", "test"):
            place = f"{condition}/{split}/GOPR0475"
            write_scene(root, "acdc", place, split, f"GOPR_{condition}_{split}", split != "test")
    write_scene(root, "acdc", "fog/train_ref/GOPR0475", "train", "GOPR_clear")  # clear images are no part of the sets
    assert [len(DatasetCatalog.get(f"acdc_{x}")) for x in ("train", "val", "test")] == [4, 4, 4]
    (night,) = DatasetCatalog.get("acdc_night_val")
    assert night["file_name"].endswith("acdc/rgb_anon/night/val/GOPR0475/GOPR_night_val_rgb_anon.png")
    assert night["sem_seg_file_name"].endswith("acdc/gt/night/val/GOPR0475/GOPR_night_val_gt_labelTrainIds.png")
    assert "sem_seg_file_name" not in DatasetCatalog.get("acdc_night_test")[0]
    for split in ("train", "val", "test"):
        write_scene(root, "dark_zurich", f"{split}/night/GOPR0356", split, f"a_{split}", split == "val")
        write_scene(root, "dark_zurich", f"{split}/day/GOPR0356", split, f"b_{split}", False)
        (x,) = DatasetCatalog.get(f"dark_zurich_{split}")
        assert f"{split}/night" in x["file_name"] and ("sem_seg_file_name" in x) == (split == "val")


def test_cityscapes(root):
    write_cityscapes(root / "cityscapes")
    assert prepare_scenes("cityscapes_sem_val", progress=False) == 4
    dicts = DatasetCatalog.get("cityscapes_sem_val")
    assert len(dicts) == 4 and np.array(Image.open(dicts[1]["sem_seg_file_name"])).tolist()[0] == [10] * 60  # sky
    assert [x["file_name"] for x in DatasetCatalog.get("cityscapes_sem_val_synthia")] == [x["file_name"] for x in dicts]


def test_published_counts_and_classes():
    sets = scene_sets()
    assert sets["acdc_train"].count == 1600 and sets["dark_zurich_train"].count == 2416
    assert len(CLASSES_16) == 16 and not {"terrain", "truck", "train"} & set(CLASSES_16)
    assert len(CLASSES_13) == 13 and not {"wall", "fence", "pole"} & set(CLASSES_13) and "rider" in CLASSES_13


def semseg_cfg(**overrides):
    return tiny_cfg(**{
        "MODEL__META_ARCHITECTURE": "SemanticSegmentor", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 19,
        "MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 255, **overrides,
    })  # fmt: skip


def one_hot(labels):
    return {"sem_seg": torch.nn.functional.one_hot(torch.as_tensor(labels), 19).permute(2, 0, 1).float()}


def test_means_over_the_classes_of_synthia(root):
    write_cityscapes(root / "cityscapes", splits=("val",))
    prepare_scenes("cityscapes_sem_val", progress=False)
    for x in DatasetCatalog.get("cityscapes_sem_val"):
        labels = np.repeat([[0, 0, 13, 13, 3, 14]], 4, axis=0).astype(np.uint8)
        Image.fromarray(labels).save(x["sem_seg_file_name"])
    predictions = np.repeat([[0, 13, 13, 13, 3, 0]], 4, axis=0)  # the truck becomes road
    # IoU of road 1/3, of car 2/3, of wall 1, of truck 0
    results = {}
    for name in ("cityscapes_sem_val", "cityscapes_sem_val_synthia"):
        (evaluator,) = make_evaluators(semseg_cfg(), name)
        evaluator.reset()
        for x in DatasetCatalog.get(name):
            evaluator.process([x], [one_hot(predictions)])
        results[name] = evaluator.evaluate()["sem_seg"]
    assert results["cityscapes_sem_val"]["mIoU"] == pytest.approx(100 * (1 / 3 + 2 / 3 + 1 + 0) / 4)
    assert "mIoU13" not in results["cityscapes_sem_val"]
    assert results["cityscapes_sem_val_synthia"]["mIoU"] == pytest.approx(100 * (1 / 3 + 2 / 3 + 1) / 3)
    assert results["cityscapes_sem_val_synthia"]["mIoU13"] == pytest.approx(100 * (1 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize("name, folder, value", [
    ("acdc_test", "labelTrainIds", [0, 1, 2, 10, 13, 18]),
    ("cityscapes_sem_test", "labelIds", [7, 8, 11, 23, 26, 33]),
])  # fmt: skip
def test_label_maps_for_the_servers(root, name, folder, value, caplog):
    if name == "acdc_test":
        stem = "GOPR0475_frame_000001_rgb_anon"
        picture(root / f"acdc/rgb_anon/fog/test/GOPR0475/{stem}.png")
    else:
        stem = "berlin_000000_000019_leftImg8bit"
        picture(root / f"cityscapes/leftImg8bit/test/berlin/{stem}.png")
    cfg = semseg_cfg(DATASETS__TEST=(name,))
    assert check_datasets(cfg, training=False)[0].endswith("1 images")
    (evaluator,) = make_evaluators(cfg, name, str(root / "out"))
    evaluator.reset()
    predictions = np.repeat([[0, 1, 2, 10, 13, 18]], 4, axis=0)
    (x,) = DatasetCatalog.get(name)
    evaluator.process([x], [one_hot(predictions)])
    with caplog.at_level("INFO"):
        assert evaluator.evaluate() == {}
    assert f"{name} has no labels. 1 label maps" in caplog.text
    (file,) = (root / "out" / folder).iterdir()
    assert file.name == f"{stem}.png" and Image.open(file).mode == "L"
    np.testing.assert_array_equal(np.array(Image.open(file)), np.repeat([value], 4, axis=0))
    with pytest.raises(DataError, match="have one name"):
        evaluator.process([{**x, "file_name": x["file_name"].replace("/test/", "/other/")}], [one_hot(predictions)])


def test_a_set_without_labels_is_no_training_set(root):
    picture(root / "acdc/rgb_anon/fog/test/GOPR0475/a_rgb_anon.png")
    with pytest.raises(DataError, match=r"acdc_test \(DATASETS.TRAIN\) lacks label maps"):
        check_datasets(semseg_cfg(DATASETS__TRAIN=("acdc_test",)))


def test_metadata_of_all_sets():
    for name in scene_sets():
        metadata = MetadataCatalog.get(name)
        assert len(metadata.stuff_classes) == 19 and metadata.ignore_label == 255
