"""Label maps: Cityscapes' train ids found or made, declared folders, and what is said where one is missing or wrong."""

import json
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from helpers.cityscapes import SCENES, SIZE, instance_ids, write_cityscapes
from helpers.data import declared, forget_registered_sets, load, tiny_config, write_two_domains
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.data.custom_sets import register_declared_datasets
from mic_det.data.label_maps import make_label_maps, train_ids
from mic_det.data.loader import build_mic_train_loader
from mic_det.data.run_sets import check_datasets
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import CheckpointError, ConfigError, DataError
from mic_det.evaluation.panoptic import PanopticQuality

# by hand, from Cityscapes' description: road 0, sky 10, person 11, car 13, train 16, bicycle 18; caravan is ignored
TRAIN_IDS = {0: 255, 7: 0, 23: 10, 24: 11, 26: 13, 29: 255, 31: 16, 33: 18}


def expected(number):
    ids = instance_ids(SCENES[number])
    labels = np.where(ids >= 1000, ids // 1000, ids)
    return np.vectorize(TRAIN_IDS.get)(labels)


def label_map(root, number, kind="labelTrainIds"):
    return root / f"gtFine/val/zürich/zürich_{number}_000019_gtFine_{kind}.png"


def write_label_ids(root):
    for number in SCENES:
        ids = instance_ids(SCENES[number])
        Image.fromarray(np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)).save(
            label_map(root, number, "labelIds")
        )


def test_train_ids_by_hand():
    assert train_ids(np.array([[7, 26, 0], [33, 29, 255]])).tolist() == [[0, 13, 255], [18, 255, 255]]


@pytest.mark.parametrize("kind", ["labelIds", "polygons"])
def test_they_are_made_from_label_ids_or_polygons(tmp_path, kind):
    root = write_cityscapes(
        tmp_path, splits=("val",), annotations=("polygons", "instanceIds")[: 1 + (kind != "polygons")]
    )
    if kind == "labelIds":
        write_label_ids(root)
        for file in root.glob("gtFine/val/*/*polygons.json"):
            file.write_text("not read where there are label ids")
    assert make_label_maps(root, "val", workers=1, progress=False) == 4
    for number in SCENES:
        assert (np.asarray(Image.open(label_map(root, number))) == expected(number)).all()
    assert make_label_maps(root, "val", workers=1, progress=False) == 0


def test_those_that_are_there_are_kept(tmp_path):
    root = write_cityscapes(tmp_path, splits=("val",))
    Image.fromarray(np.full(SIZE, 5, np.uint8)).save(label_map(root, "000000"))
    assert make_label_maps(root, "val", workers=1, progress=False) == 3
    assert (np.asarray(Image.open(label_map(root, "000000"))) == 5).all()


def test_a_broken_source_is_named(tmp_path):
    root = write_cityscapes(tmp_path, splits=("val",))
    label_map(root, "000002", "labelIds").write_bytes(b"x")
    with pytest.raises(ValueError, match="000002_000019_gtFine_labelIds.png cannot be read"):
        make_label_maps(root, "val", workers=1, progress=False)


def test_a_run_with_a_segmentation_head_makes_them_and_a_detector_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = write_cityscapes(tmp_path / "cityscapes")
    keys = {
        "DATASETS__CUSTOM": {}, "DATASETS__TRAIN": ["cityscapes_det_val"], "DATASETS__TEST": [],
        "MODEL__ROI_HEADS__NUM_CLASSES": 8, "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 19,
    }  # fmt: skip
    check_datasets(load(tmp_path, tiny_config(tmp_path, **keys)))
    assert not label_map(root, "000000").exists()
    for kind in ("BoxPanopticFPN", "SemanticSegmentor"):
        shutil.rmtree(root / "annotations")
        check_datasets(load(tmp_path, tiny_config(tmp_path, **keys, MODEL__META_ARCHITECTURE=kind)))
        assert label_map(root, "000000").exists()
    dicts = DatasetCatalog.get("cityscapes_det_val")
    assert [d["sem_seg_file_name"] for d in dicts] == [str(label_map(root, n)) for n in sorted(SCENES)]
    meta = MetadataCatalog.get("cityscapes_det_val")
    assert meta.ignore_label == 255 and meta.stuff_classes[13] == "car" and len(meta.stuff_classes) == 19
    keys["MODEL__SEM_SEG_HEAD__NUM_CLASSES"] = 11
    with pytest.raises(DataError, match="19 classes of pixels.*MODEL.SEM_SEG_HEAD.NUM_CLASSES is 11"):
        check_datasets(load(tmp_path, tiny_config(tmp_path, **keys, MODEL__META_ARCHITECTURE="SemanticSegmentor")))


@pytest.fixture
def root(tmp_path):
    write_two_domains(tmp_path)
    for split in ("train", "val"):
        for i in range(8):
            labels = np.full((64, 96), 255, np.uint8)
            labels[:32], labels[40:, :48] = i % 3, 2
            file = tmp_path / f"source/labels/{split}_{i}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(labels).save(file)
    with forget_registered_sets():
        yield tmp_path


def sem_seg_config(root, kind="BoxPanopticFPN", classes=("a", "b", "c"), **changes):
    sets = declared(root)
    for split in ("train", "val"):
        sets[f"source_{split}"].update(SEM_SEG=str(root / "source/labels"), SEM_SEG_CLASSES=classes and list(classes))
    keys = {
        "DATASETS__CUSTOM": sets, "DATASETS__TEST": ["source_val"], "MODEL__META_ARCHITECTURE": kind,
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 3, **changes,
    }  # fmt: skip
    return load(root, tiny_config(root, **keys))


def test_declared_label_maps_reach_the_model_in_the_images_frame(root):
    cfg = sem_seg_config(root, INPUT__MIN_SIZE_TRAIN=[32], INPUT__RANDOM_FLIP="none")
    check_datasets(cfg)
    for _, x in zip(range(2), (x for batch in build_mic_train_loader(cfg) for x in batch)):
        i = int(x["file_name"].split("_")[-1][:-4])
        assert x["sem_seg"].shape == x["image"].shape[1:] == (32, 48)
        assert (
            (x["sem_seg"][:16] == i % 3).all()
            and (x["sem_seg"][20:, :24] == 2).all()
            and (x["sem_seg"][17:19] == 255).all()
        )


def test_a_name_that_the_json_tells_comes_first(root):
    file = root / "source/val.json"
    content = json.loads(file.read_text())
    for x in content["images"]:
        x["sem_seg_file_name"] = x["file_name"].replace("val_", "train_")
    file.write_text(json.dumps(content))
    sem_seg_config(root)
    assert DatasetCatalog.get("source_val")[0]["sem_seg_file_name"] == str(root / "source/labels/train_0.png")


def test_a_folder_without_boxes_is_enough_for_a_segmentation(root):
    sets = {"plain": {"IMAGES": str(root / "source/images"), "SEM_SEG": str(root / "source/labels"),
                      "SEM_SEG_CLASSES": ["a", "b", "c"]}}  # fmt: skip
    for file in (root / "source/images").glob("val_*"):
        file.unlink()
    changes = {"DATASETS__CUSTOM": sets, "DATASETS__TRAIN": ["plain"], "DATASETS__TEST": []}
    cfg = sem_seg_config(root, "SemanticSegmentor", **changes)
    check_datasets(cfg)
    batch = next(iter(build_mic_train_loader(cfg)))
    assert all(x["sem_seg"].shape == (64, 96) and "instances" not in x for x in batch)


def test_what_is_missing_or_wrong_is_named(root):
    cfg = sem_seg_config(root)
    (root / "source/labels/train_3.png").unlink()
    with pytest.raises(DataError, match="source_train .*lacks label maps.*train_3.png is missing.*SEM_SEG"):
        check_datasets(cfg)
    with pytest.raises(DataError, match="target_val .*lacks label maps"):
        check_datasets(sem_seg_config(root, DATASETS__TRAIN=["source_val"], DATASETS__TEST=["target_val"]))
    with pytest.raises(ConfigError, match="source_train.SEM_SEG has no SEM_SEG_CLASSES"):
        sem_seg_config(root, classes=None)
    check_datasets(sem_seg_config(root, "GeneralizedRCNN"))  # a detector does not mind


@pytest.mark.parametrize("labels, message", [
    (np.full((64, 96), 7, np.uint8), "has the label 7: MODEL.SEM_SEG_HEAD.NUM_CLASSES is 3"),
    (np.zeros((64, 90), np.uint8), "is not of the size of its image"),
])  # fmt: skip
def test_label_maps_that_do_not_fit_are_named(root, labels, message):
    for file in (root / "source/labels").glob("train_*"):
        Image.fromarray(labels).save(file)
    cfg = sem_seg_config(root)
    with pytest.raises(DataError, match=f"label map .*train_.*{message}"):
        next(iter(build_mic_train_loader(cfg)))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation alone"])
def test_labels_that_mean_other_classes_in_another_set_are_refused(root, training):
    """The files hold numbers: IoU would be of the wrong classes without a word."""
    cfg = sem_seg_config(root).clone()
    cfg.defrost()
    for name, order in (("source_val", ["b", "a", "c"]), ("source_train", ["a", "b", "c"])):
        cfg.DATASETS.CUSTOM[name].SEM_SEG_CLASSES = order
    register_declared_datasets(cfg)
    with pytest.raises(DataError, match=r"source_val \(DATASETS.TEST\).*source_train has.*the label 0 means 'b'"):
        check_datasets(cfg, training)
    cfg.DATASETS.CUSTOM.source_val.SEM_SEG_CLASSES = ["A ", "b", "c"]  # a matter of spelling
    register_declared_datasets(cfg)
    check_datasets(cfg, training)


def test_boxes_whose_class_is_none_of_pixels_are_refused_where_panoptic_quality_is_measured(root):
    for file in (root / "source").glob("*.json"):
        content = json.loads(file.read_text())
        for a in content["annotations"]:
            x, y, w, h = a["bbox"]
            a["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
        file.write_text(json.dumps(content))
    masks = {"MODEL__MASK_ON": True, "INPUT__MASK_FORMAT": "bitmask"}
    with pytest.raises(DataError, match=r"source_val.*the class 'red' of boxes is none of pixels \(a, b, c\)"):
        check_datasets(sem_seg_config(root, **masks))
    check_datasets(sem_seg_config(root))
    check_datasets(sem_seg_config(root, classes=("Red", "green", "blue"), **masks))
    PanopticQuality("source_val")


@pytest.mark.parametrize("complete", [True, False], ids=["evaluation", "training"])
def test_a_checkpoint_whose_pixel_classes_have_another_order_is_refused(root, complete):
    cfg = sem_seg_config(root, "SemanticSegmentor")
    model = MICTrainer.build_model(cfg)
    MICCheckpointer.from_config(cfg, model, str(root)).save("named")
    for classes, test in ((("a", "b", "c"), []), (("A ", "b", "c"), ["source_val"]), (("a", "b", "new"), [])):
        cfg = sem_seg_config(root, "SemanticSegmentor", classes, DATASETS__TEST=test)
        MICCheckpointer.from_config(cfg, model, complete=complete).load(str(root / "named.pth"))
    cfg = sem_seg_config(root, "SemanticSegmentor", ("b", "a", "c"))
    with pytest.raises(CheckpointError, match=r"named.pth was trained on the classes of pixels \['a', 'b', 'c'\]"):
        MICCheckpointer.from_config(cfg, model, complete=complete).load(str(root / "named.pth"))
