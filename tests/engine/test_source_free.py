"""Training without source images: the checkpoint tells the classes, whatever order the target's files have."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from helpers.data import (
    CLASSES,
    declared,
    forget_registered_sets,
    load,
    tiny_config,
    write_two_domains,
)  # fmt: skip
from helpers.resume import make_trainer, same, saved, write_mixed_domains
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.data.classes import model_class_names
from mic_det.data.run_sets import check_datasets
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import CheckpointError, ConfigError, DataError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("clean_catalogs")]

ORDER = ("blue", "red", "green")  # of the source that nobody has any more
FREE = {
    "MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TRAIN": [], "DATASETS__TARGET": ["target_train"],
    "MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD": 0.05, "SOLVER__MAX_ITER": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("free")
    write_two_domains(folder)
    torch.manual_seed(3)
    with forget_registered_sets():
        model = MICTrainer.build_model(load(folder, tiny_config(folder)))
    for name, classes in (("start", ORDER), ("nameless", None), ("four", (*ORDER, "pink"))):
        MICCheckpointer(model, str(folder), class_names=classes).save(name)
    return folder


def config(root, tmp_path, weights="start", **keys):
    keys = {**FREE, "MODEL__WEIGHTS": str(root / f"{weights}.pth") if weights else "", **keys}
    return load(tmp_path, tiny_config(root, tmp_path / "out", **keys))


def test_a_run_keeps_the_classes_of_its_checkpoint_and_evaluates_in_their_order(root, tmp_path):
    cfg = config(root, tmp_path)
    trainer = MICTrainer(cfg)
    assert trainer.checkpointer.model.class_names == ORDER
    labels = {c: i for i, c in enumerate(ORDER)}
    content = json.loads((root / "target" / "val.json").read_text())
    by_id = {c["id"]: labels[c["name"]] for c in content["categories"]}
    wanted = sorted((by_id[a["category_id"]], *a["bbox"]) for a in content["annotations"])
    dicts = DatasetCatalog.get("target_val")
    assert sorted((a["category_id"], *a["bbox"]) for x in dicts for a in x["annotations"]) == wanted
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = trainer._last_eval_results
    assert {f"AP-{c}" for c in CLASSES} <= results["bbox"].keys()
    written = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert tuple(written["class_names"]) == ORDER
    names = {k for k in trainer.storage.histories() if "loss" in k}
    assert names == {"total_loss", "masked/loss_rpn_cls", "masked/loss_cls"}
    assert "pseudo/num_boxes_blue" in trainer.storage.histories()


def test_the_first_outputs_are_those_of_the_checkpoint(root, tmp_path):
    """A training of no step predicts what the checkpoint predicts: no class has another number."""
    trainer = MICTrainer(config(root, tmp_path))
    trainer.resume_or_load(resume=False)
    state = torch.load(root / "start.pth", weights_only=True)["model"]
    for part in ("student", "teacher"):
        own = getattr(trainer.checkpointer.model, part).state_dict()
        assert all(torch.equal(own[k], v) for k, v in state.items()), part


@pytest.mark.parametrize(
    "weights, keys, names",
    [
        ("start", {}, ORDER),
        ("start", {"DATASETS__TARGET_LABELLED": ["source_val"]}, ORDER),
        ("nameless", {"DATASETS__CLASS_NAMES": ["green", "blue", "red"]}, ("green", "blue", "red")),
        ("nameless", {"DATASETS__TARGET_LABELLED": ["source_val"]}, CLASSES),
        ("four", {"DATASETS__TARGET_LABELLED": ["source_val"]}, CLASSES),  # weights of other classes
        ("nameless", {}, None),
    ],
)
def test_who_names_the_classes(root, tmp_path, weights, keys, names):
    cfg = config(root, tmp_path, weights, **keys)
    trainer = MICTrainer(cfg)
    found = model_class_names(cfg)
    assert (tuple(found) if found else None) == names
    lines = "\n".join(check_datasets(cfg))
    assert ("taken to be those of target_val" in lines) == (names is None)
    if "DATASETS__TARGET_LABELLED" in keys:
        batch = next(iter(trainer.data_loader))
        own = {d["file_name"]: d["annotations"] for d in DatasetCatalog.get("source_val")}
        assert tuple(MetadataCatalog.get("source_val").thing_classes) == names
        for x in (x for x in batch if x["domain"] == "labelled_target"):
            assert sorted(x["instances"].gt_classes.tolist()) == sorted(a["category_id"] for a in own[x["file_name"]])


def test_names_that_do_not_fit_are_refused(root, tmp_path):
    with pytest.raises(ConfigError, match="checkpoint names 4 classes.*pink.*NUM_CLASSES is 3"):
        MICTrainer(config(root, tmp_path, "four"))
    cfg = config(root, tmp_path, DATASETS__CLASS_NAMES=["red", "green", "blue"])
    with pytest.raises(CheckpointError, match="another order"):
        MICTrainer(cfg).resume_or_load(resume=False)
    custom = {**declared(root), "odd": {"JSON": str(root / "odd.json"), "IMAGES": str(root / "target/images")}}
    content = json.loads((root / "target" / "val.json").read_text())
    content["categories"][0]["name"] = "violet"
    (root / "odd.json").write_text(json.dumps(content))
    cfg = config(root, tmp_path, DATASETS__CUSTOM=custom, DATASETS__TEST=["odd"])
    MICTrainer(cfg)
    with pytest.raises(DataError, match="violet"):
        check_datasets(cfg)


def test_a_resumed_run_is_the_run_without_a_stop(tmp_path):
    """With labelled images, a labeller's boxes, and no source: bit by bit."""
    write_mixed_domains(tmp_path)
    boxes = [{"file_name": f"{i}.png", "id": i} for i in range(7)]
    found = {
        "images": boxes, "categories": [{"id": 1, "name": "red"}],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [5 + i, 6, 20, 20], "score": 0.9} for i in range(7)],
    }  # fmt: skip
    (tmp_path / "found.json").write_text(json.dumps(found))
    keys = {
        "MODEL__META_ARCHITECTURE": "MIC", "MODEL__MIC__LABELLER": {"JSON": str(tmp_path / "found.json")},
        "DATASETS__TRAIN": [], "DATASETS__TARGET": ["fog"], "DATASETS__TARGET_LABELLED": ["day"],
        "DATASETS__TARGET_LABELLED_IMAGES": 3, "SOLVER__MAX_ITER": 4, "SOLVER__WARMUP_ITERS": 1,
    }  # fmt: skip
    make_trainer(tmp_path, tmp_path / "whole", False, **keys).train()
    for length in (2, 4):
        make_trainer(tmp_path, tmp_path / "parts", True, **{**keys, "SOLVER__MAX_ITER": length}).train()
    one, other = (saved(tmp_path / name) for name in ("whole", "parts"))
    assert same(one["model"], other["model"])
    assert one["iteration"] == 3
