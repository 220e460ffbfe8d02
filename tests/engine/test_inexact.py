"""Whatever keeps a resumed run from taking the same steps is told in one line, with the key and what to do."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch

from helpers.data import forget_registered_sets, write_image
from helpers.resume import MIC, make_trainer, run_config, saved, write_mixed_domains
from mic_det.data.fingerprint import annotation_fingerprint, file_fingerprints
from mic_det.errors import CheckpointError

pytestmark = pytest.mark.slow

STEPS = {"SOLVER__LR_SCHEDULER_NAME": "WarmupMultiStepLR"}
KEYS = {**MIC, **STEPS, "SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__MAX_ITER": 2, "SOLVER__WARMUP_ITERS": 0,
        "MODEL__MIC__ALIGNMENT": {**MIC["MODEL__MIC__ALIGNMENT"], "SCHEDULE": "constant"}}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("inexact")
    write_mixed_domains(root)
    with forget_registered_sets():
        make_trainer(root, root / "run", **KEYS).train()
    return root


@pytest.fixture
def root(template, tmp_path):
    """The data and the run of two steps, with the files' times."""
    shutil.copytree(template, tmp_path / "x")
    with forget_registered_sets():
        yield tmp_path / "x"


def resume(root, caplog, **keys):
    """The one line about what is not exact; "" where all is."""
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(root, root / "run", True, **{**KEYS, "SOLVER__MAX_ITER": 3, **keys})
        trainer.train()
    found = [r.getMessage() for r in caplog.records if "not exactly" in r.getMessage()]
    assert len(found) <= 1 and not any("\n" in x for x in found)
    return found[0] if found else ""


def change_annotations(root):
    content = json.loads((root / "day.json").read_text())
    content["annotations"][0]["bbox"][2] += 1
    (root / "day.json").write_text(json.dumps(content))


def grow_image(root):
    write_image(root / "fog/3.png", np.full((64, 96, 3), 7, np.uint8))


def rename_image(root):
    (root / "fog/6.png").rename(root / "fog/7.png")


def touch(root):
    os.utime(root / "day/2.png", (1, 1))


def rename_class(root):
    content = json.loads((root / "day.json").read_text())
    content["categories"][1]["name"] = "grass"
    (root / "day.json").write_text(json.dumps(content))


DATA = {
    "boxes": (change_annotations, "annotations of DATASETS.TRAIN have changed"),
    "an image": (grow_image, "names or sizes of the files of DATASETS.TARGET have changed"),
    "a name": (rename_image, "names or sizes of the files of DATASETS.TARGET have changed"),
    "a time": (touch, "times of the files of DATASETS.TRAIN have changed"),
    "a class's name": (rename_class, "classes of DATASETS.TRAIN: was"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_changed_with_equal_counts(root, caplog, name):
    change, told = DATA[name]
    change(root)
    message = resume(root, caplog)
    assert told in message and "without --resume" in message
    assert "times of the files" not in message or name == "a time"


def test_the_same_data_elsewhere_are_the_same(root, caplog):
    assert resume(root, caplog) == "", "shutil.copytree keeps times"


CHANGED = {
    "a switched part": (
        {"MODEL__MIC__ALIGNMENT": {"SCHEDULE": "constant", "INSTANCE": {"ENABLED": True, "FC_DIM": 8}}},
        ["ALIGNMENT.IMAGE.ENABLED: was True, is False", "ALIGNMENT.AGREEMENT.ENABLED"],
    ),
    "a frozen stage": ({"MODEL__BACKBONE__FREEZE_AT": 3}, ["MODEL.BACKBONE.FREEZE_AT: was 0, is 3"]),
    "a plain detector": (
        {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN", "DATASETS__TARGET": []},
        ["MODEL.META_ARCHITECTURE: was MIC, is GeneralizedRCNN", "momentum that start from zero"],
    ),
    "a longer squeezed warm-up": (
        {"SOLVER__WARMUP_ITERS": 3, "SOLVER__MAX_ITER": 4}, ["SOLVER.WARMUP_ITERS: was 0, is 3"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_setting(root, caplog, name):
    keys, parts = CHANGED[name]
    message = resume(root, caplog, **{"SOLVER__MAX_ITER": 3, **keys})
    assert all(x in message for x in parts), message


@pytest.mark.parametrize(
    "keys, told",
    [
        ({"SOLVER__WARMUP_ITERS": 3}, "SOLVER.MAX_ITER: was 2, is 4"),  # squeezed into two steps
        ({"SOLVER__WARMUP_ITERS": 2}, ""),
        ({"SOLVER__LR_SCHEDULER_NAME": "WarmupCosineLR"}, "SOLVER.MAX_ITER: was 2, is 4"),
    ],
    ids=["squeezed", "not squeezed", "cosine"],
)
def test_a_longer_run_whose_first_steps_would_have_had_other_learning_rates(root, tmp_path, caplog, keys, told):
    """Told exactly where Detectron2's schedules of the two lengths differ in the steps that were taken."""
    from detectron2.solver import build_lr_scheduler
    from torch import nn
    from torch.optim import SGD

    from helpers.data import load

    plain = {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN", "DATASETS__TARGET": [], **keys}
    rates = []
    for length in (2, 4):
        cfg = load(tmp_path, run_config(root, root / "long", **{**KEYS, **plain, "SOLVER__MAX_ITER": length}))
        scheduler = build_lr_scheduler(cfg, SGD(nn.Linear(1, 1).parameters(), lr=cfg.SOLVER.BASE_LR))
        rates.append([])
        for _ in range(2):
            rates[-1] += scheduler.get_lr()
            scheduler.optimizer.step()
            scheduler.step()
    shutil.rmtree(root / "run")
    make_trainer(root, root / "run", **{**KEYS, **plain}).train()
    message = resume(root, caplog, **{**plain, "SOLVER__MAX_ITER": 4})
    assert (told in message) if told else message == ""
    assert bool(told) == (rates[0] != pytest.approx(rates[1]))


def test_classes_in_another_order_are_refused(root):
    content = json.loads((root / "day.json").read_text())
    a, b = content["categories"][:2]
    a["name"], b["name"] = b["name"], a["name"]
    (root / "day.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="was trained on the classes .*green.*in another order"):
        make_trainer(root, root / "run", True, **KEYS)
    # earlier checkpoints name them among the settings alone
    file = root / "run/model_final.pth"
    content = torch.load(file, weights_only=True)
    del content["class_names"]
    torch.save(content, file)
    with pytest.raises(CheckpointError, match="cannot be resumed: the classes of DATASETS.TRAIN are .*green") as caught:
        make_trainer(root, root / "run", True, **KEYS)
    assert "OUTPUT_DIR" in str(caught.value) and "\n" not in str(caught.value)


def test_another_architecture_is_refused_with_its_keys(root):
    with pytest.raises(CheckpointError, match="MODEL.FPN.OUT_CHANNELS: was 8, is 12"):
        levels = ["res2", "res3", "res4", "res5"]
        fpn = {"IN_FEATURES": levels, "OUT_CHANNELS": 12}
        make_trainer(root, root / "run", True, **{**KEYS, "MODEL__FPN": fpn})


def test_a_key_that_an_earlier_version_did_not_have_counts_as_its_default(root, caplog):
    import torch

    for file in (root / "run").glob("*.pth"):
        state = saved(root / "run", file.name)
        settings = state["trainer"]["hooks"]["ExactState"]["settings"]
        for key in ("SOLVER.FUSED", "PyTorch", "annotations of DATASETS.TRAIN", "classes of DATASETS.TRAIN"):
            del settings[key]
        torch.save(state, file)
    assert resume(root, caplog) == ""
    assert "SOLVER.FUSED: was True, is False" in resume(root, caplog, SOLVER__FUSED=False, SOLVER__MAX_ITER=4)


def test_fingerprints_are_cheap(tmp_path):
    """A thousand files of a set take less than a tenth of a second; order and content count."""
    import time

    for i in range(1000):
        (tmp_path / f"{i}.png").write_bytes(b"x" * i)
    dicts = [{"file_name": str(tmp_path / f"{i}.png"), "annotations": [{"bbox": [i, 0, 1, 1]}]} for i in range(1000)]
    seconds = []
    for _ in range(3):  # the garbage collector may come in between
        start = time.process_time()
        first = file_fingerprints(dicts)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1
    assert file_fingerprints(dicts[::-1])[0] != first[0]
    changed = [*dicts[:-1], {**dicts[-1], "annotations": []}]
    assert annotation_fingerprint(["no_file"], dicts) != annotation_fingerprint(["no_file"], changed)
