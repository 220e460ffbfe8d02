"""Image classes without source images, and with a few labelled target images."""

from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog

from helpers.image_classes import CLASSES, tiny_options, write_class_folders
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.data.run_sets import check_datasets
from mic_det.engine.setup import load_config
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import ConfigError

pytestmark = pytest.mark.usefixtures("clean_catalogs")

ORDER = ("red", "blue", "green")  # of a source that nobody has any more


def config(root, *pairs):
    write_class_folders(root)
    return load_config("", [*tiny_options(root), "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", str(root / "out"), *pairs])


def source_free(root, *pairs):
    """A config without source images. Its MODEL.WEIGHTS name the classes in ORDER."""
    cfg = config(root, "DATASETS.TRAIN", (), "SOLVER.IMS_PER_BATCH", 4, *pairs)
    torch.manual_seed(0)
    model = MICTrainer.build_model(cfg)
    MICCheckpointer(model, str(root), class_names=ORDER).save("start")
    cfg.MODEL.WEIGHTS = str(root / "start.pth")
    return cfg


def check_order(classes):
    """The class of each test image is the place of its folder's name in ``classes``."""
    found = {(Path(x["file_name"]).parent.name, x["image_class"]) for x in DatasetCatalog.get("target")}
    assert found == {(name, classes.index(name)) for name in CLASSES}


def test_without_a_source_the_checkpoint_tells_the_classes(tmp_path):
    trainer = MICTrainer(source_free(tmp_path, "MODEL.MIC.MCC.WEIGHT", 0.1))
    check_order(ORDER)
    trainer.resume_or_load(resume=False)
    trainer.train()
    names = {k for k in trainer.storage.histories() if "loss" in k}
    assert names == {"total_loss", "masked/loss_class", "target/loss_confusion"}
    written = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert tuple(written["class_names"]) == ORDER


def test_the_config_tells_the_classes_before_the_checkpoint(tmp_path):
    order = ("green", "red", "blue")
    MICTrainer(source_free(tmp_path, "DATASETS.CLASS_NAMES", order))
    check_order(order)
    with pytest.raises(ConfigError, match="names 2 classes .* MODEL.IMAGE_CLASSIFIER.NUM_CLASSES is 3"):
        MICTrainer(source_free(tmp_path / "two", "DATASETS.CLASS_NAMES", order[:2]))


def test_conditional_alignment_needs_a_source(tmp_path):
    cfg = source_free(tmp_path, "MODEL.MIC.CDAN.WEIGHT", 1.0, "MODEL.MIC.CDAN.FC_DIM", 8)
    with pytest.raises(ConfigError, match="MODEL.MIC.CDAN.WEIGHT needs source images"):
        check_datasets(cfg)


def test_class_confusion_needs_target_images(tmp_path):
    sets = ["DATASETS.TRAIN", (), "DATASETS.TARGET", (), "DATASETS.TARGET_LABELLED", ("target",)]
    with pytest.raises(ConfigError, match="MODEL.MIC.MCC.WEIGHT is set, but DATASETS.TARGET is empty"):
        config(tmp_path, "MODEL.MIC.MCC.WEIGHT", 0.1, "MODEL.MIC.CONSISTENCY.WEIGHT", 0.0, *sets)


@pytest.mark.parametrize("source", [("source",), ()], ids=["with source", "without source"])
def test_labelled_target_images_join_the_supervised_loss(tmp_path, source):
    cfg = config(
        tmp_path, "DATASETS.TRAIN", source, "DATASETS.TARGET_LABELLED", ("target",),
        "DATASETS.TARGET_LABELLED_IMAGES", 3,
    )  # fmt: skip
    lines = check_datasets(cfg)
    assert any("TARGET_LABELLED target: 3 images (blue 1, green 1, red 1)" in line for line in lines), lines
    assert any("9 images of DATASETS.TARGET are used without labels" in line for line in lines), lines
    trainer = MICTrainer(cfg)
    batch = next(iter(trainer.data_loader))
    labelled = [x for x in batch if x["domain"] == "labelled_target"]
    assert labelled and all(CLASSES[x["image_class"]] == Path(x["file_name"]).parent.name for x in labelled)
    assert not any("image_class" in x for x in batch if x["domain"] == "target")
    trainer.train()
    assert {"source/loss_class", "masked/loss_class"} <= trainer.storage.histories().keys()
