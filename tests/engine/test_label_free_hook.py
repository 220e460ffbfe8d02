"""TEST.LABEL_FREE: what is measured without labels in a training, and the weights that are kept for it."""

import contextlib
import logging
import math
import shutil

import pytest
import torch
from detectron2.utils.events import EventStorage, get_event_storage

from helpers.data import forget_registered_sets, load
from helpers.resume import MIC, make_trainer, metrics, run_config, same, saved, write_mixed_domains
from mic_det.checkpoint.storage import CheckpointFiles
from mic_det.data.run_sets import check_datasets
from mic_det.engine.keep_best import KeepBestLabelFree
from mic_det.engine.run_folder import prepare_run_folder
from mic_det.engine.setup import get_mic_cfg
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import ConfigError
from mic_det.evaluation.label_free.ranking import COMBINATION
from mic_det.inference.predictor import load_model

pytestmark = pytest.mark.slow

BEST = "model_best_label_free.pth"
KEYS = {
    **MIC, "TEST__EVAL_PERIOD": 2, "TEST__LABEL_FREE": {"ENABLED": True, "MAX_IMAGES": 4, "SOURCE_IMAGES": 3},
    "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.02, "SEED": 2, "SOLVER__BASE_LR": 0.03,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    with forget_registered_sets():
        write_mixed_domains(root)
        yield root


@contextlib.contextmanager
def logged(name):
    """The messages of a logger."""
    lines, logger = [], logging.getLogger(name)
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def train(root, output, resume=False, steps=8, **keys):
    trainer = make_trainer(root, output, resume, **{**KEYS, **keys})
    trainer.max_iter = steps
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def straight(data):
    trainer = train(data, data / "straight", SOLVER__CHECKPOINT_PERIOD=3)
    return data / "straight", trainer


def scores(trainer):
    """Step (as Detectron2's storage counts) -> score of the evaluations of a trainer."""
    return {step: value for value, step in trainer.storage.history("label_free/score").values()}


def test_the_kept_weights_are_those_with_the_highest_score_of_the_metrics(straight):
    folder, trainer = straight
    found = scores(trainer)
    assert sorted(found) == [1, 3, 5, 8]  # the last evaluation comes after the last step
    best, step = saved(folder, BEST), max(found, key=found.get)
    assert step == 5  # neither the first nor the last, or this test would say little
    assert (best["iteration"], best["label_free_score"]) == (min(step, 7), found[step])
    assert best["class_names"] == ["red", "green", "blue"] and "trainer" not in best
    results = MICTrainer.test(trainer.cfg, load_model(trainer.cfg, str(folder / BEST)))["label_free"]
    assert results["score"] == found[step]
    last = metrics(folder)[-1]
    assert {k for k in last if k.startswith("label_free/")} == {f"label_free/{k}" for k in ("score", *COMBINATION)}
    assert last["label_free/score"] == found[8]
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"


def test_a_training_takes_the_same_steps_without_it(data, straight):
    train(data, data / "without", TEST__LABEL_FREE={"ENABLED": False})
    assert same(saved(data / "without")["model"], saved(straight[0])["model"])
    assert not (data / "without" / BEST).exists()


def test_a_resumed_run_keeps_what_a_run_without_a_stop_keeps(data, straight):
    folder = data / "resumed"
    shutil.copytree(straight[0], folder)
    for name in ("model_final.pth", "model_0000005.pth", BEST):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text("model_0000002.pth")
    found = scores(straight[1])
    before = saved(folder, "model_0000002.pth")["trainer"]["hooks"]["KeepBestLabelFree"]
    assert (before["best"], before["step"], before["start"]) == (found[1], 1, None)
    resumed = train(data, folder, resume=True, SOLVER__CHECKPOINT_PERIOD=3)
    assert same(saved(folder, BEST), saved(straight[0], BEST))
    assert scores(resumed) == found


@pytest.fixture(scope="module")
def worse(data, straight):
    """A run that destroys the model that it starts from: the folder, the model, and the log."""
    folder, keys = data / "worse", {"SOLVER__BASE_LR": 1.0, "SOLVER__WARMUP_ITERS": 0, "TEST__EVAL_PERIOD": 0}
    keys = {**keys, "MODEL__WEIGHTS": str(straight[0] / "model_final.pth"), "SOLVER__CHECKPOINT_PERIOD": 2}
    keys["TEST__LABEL_FREE"] = {**KEYS["TEST__LABEL_FREE"], "PERIOD": 2}
    keys["SOLVER__ACCUMULATE_STEPS"] = 1
    keys["SOLVER__CLIP_GRADIENTS"] = {"ENABLED": True, "CLIP_TYPE": "norm", "CLIP_VALUE": 1.0}
    with logged("mic_det.engine.keep_best") as log:
        train(data, folder, steps=3, **keys)
    return folder, keys, log


def test_a_run_that_ends_below_its_start_keeps_the_start_and_says_so(worse, straight):
    folder, keys, log = worse
    start, kept, rows = saved(straight[0]), saved(folder, BEST), metrics(folder)
    assert kept["iteration"] == -1 and int(kept["model"]["num_steps"]) == 0
    parts = [k for k in kept["model"] if k.startswith(("teacher.", "student."))]
    teacher = {k: start["model"]["teacher." + k.partition(".")[2]] for k in parts}
    assert same({k: kept["model"][k] for k in parts}, teacher)  # MODEL.MIC.WEIGHTS_FROM
    first = next(row["label_free/start"] for row in rows if "label_free/start" in row)
    assert first == kept["label_free_score"] == straight[1].storage.history("label_free/score").latest()
    trained = {row["iteration"]: row["label_free/score"] for row in rows if "label_free/score" in row}
    assert sorted(trained) == [1, 3] and max(trained.values()) < first  # by the period, and at the end
    (warning,) = [x for x in log if "looks better" in x]
    assert f"score {first:.3f}" in warning and f"score {max(trained.values()):.3f}" in warning and BEST in warning
    state = saved(folder)["trainer"]["hooks"]["KeepBestLabelFree"]
    assert state["start"] == first


@pytest.fixture
def lost(data, straight):
    """A hook that has measured its start, then a model that does not predict the class "blue" any more; and the log."""
    keys = {**KEYS, "MODEL__WEIGHTS": str(straight[0] / "model_final.pth")}
    trainer = make_trainer(data, data / "lost", **keys)
    trainer.iter = trainer.start_iter = 0
    hook = next(h for h in trainer._hooks if isinstance(h, KeepBestLabelFree))

    def bias_of_blue(value):
        for detector in (trainer.model.student, trainer.model.teacher):
            detector.roi_heads.box_predictor.cls_score.bias.data[2] = value

    with EventStorage(), logged("mic_det.engine.keep_best") as log:
        trainer.storage = get_event_storage()
        bias_of_blue(2)
        hook.before_train()
        unchanged = hook.measure()["label_free"]
        hook.cfg = trainer.cfg.clone()
        hook.cfg.TEST.LABEL_FREE.MAX_IMAGES = 1  # as in a resumed run
        assert hook.measure()["label_free"]["lost_classes"] == 0
        hook.cfg = trainer.cfg
        bias_of_blue(-100)
        yield hook, unchanged, hook.measure()["label_free"], log
    shutil.rmtree(data / "lost")


def test_weights_that_have_lost_a_class_have_score_0(lost):
    hook, unchanged, results, log = lost
    assert hook.start_classes[2] * 4 >= 1, "the start predicts it, or this test would say nothing"
    assert (unchanged["lost_classes"], unchanged["score"]) == (0, hook.start)
    assert (results["lost_classes"], results["score"]) == (1, 0)
    assert len(log) == 1 and "has lost blue" in log[0] and "25 %" in log[0]
    hook._keep()
    assert (hook.best, hook.above_start) == (0, 0)
    assert saved(hook.checkpointer.save_dir, BEST)["iteration"] == -1, "the start's weights stay"
    again = KeepBestLabelFree(hook.cfg, hook.model, hook.checkpointer, None)
    again.load_state_dict(hook.state_dict())
    assert again.start_classes == hook.start_classes
    older = {k: v for k, v in hook.state_dict().items() if k != "start_classes"}
    KeepBestLabelFree(hook.cfg, hook.model, hook.checkpointer, None).load_state_dict(older)
    assert "did not look for lost classes" in log[-1]


def test_a_resumed_run_still_knows_its_start(data, worse):
    folder, keys, _ = worse
    again = data / "worse_resumed"
    shutil.copytree(folder, again)
    for name in ("model_final.pth", "metrics.json"):
        (again / name).unlink()
    (again / "last_checkpoint").write_text("model_0000001.pth")
    with logged("mic_det.engine.keep_best") as log:
        train(data, again, resume=True, steps=3, **keys)
    assert same(saved(again, BEST), saved(folder, BEST))
    hooks = [saved(x)["trainer"]["hooks"]["KeepBestLabelFree"] for x in (again, folder)]
    assert hooks[0] == hooks[1]
    assert [x.replace("worse_resumed", "worse") for x in log] == worse[2]
    # where the file is lost, the best of what is left is kept, and the start is named by its own file
    (again / BEST).unlink()
    (again / "model_final.pth").unlink()
    (again / "last_checkpoint").write_text("model_0000001.pth")
    with logged("mic_det.engine.keep_best") as log:
        train(data, again, resume=True, steps=3, **keys)
    assert "is missing" in log[0] and keys["MODEL__WEIGHTS"] in log[-1]
    assert saved(again, BEST)["iteration"] in (1, 2)


def test_the_report_is_of_the_weights_that_are_in_the_file(tmp_path):
    """As where a run on a GPU is resumed from a checkpoint before its best step, and does not find it again."""
    cfg = get_mic_cfg(opts=["DATASETS.TARGET", ("fog",)])
    hook = KeepBestLabelFree(cfg, None, CheckpointFiles(torch.nn.Linear(1, 1), str(tmp_path)), None)
    state = {"best": 0.25, "step": 1, "above_start": 0.0, "start": 0.5, "start_samples": [0.5]}
    hook.load_state_dict({**state, "combination": COMBINATION})
    content = {"iteration": 6, "label_free_score": 0.75, "label_free_above_start": 0.9}
    torch.save(content, tmp_path / BEST)
    with logged("mic_det.engine.keep_best") as log:
        hook._report()
    assert "the weights after step 7 (score 0.750) look best" in log[0] and "lower in 90 %" in log[0]


@pytest.mark.parametrize(
    "key, parts",
    [
        ({"combination": {"entropy": 1.0}}, ["other criteria"]),
        ({"combination": COMBINATION, "dataset": "fog_b"}, ["fog_b", "fog_a", "TEST.LABEL_FREE.DATASET"]),
        ({}, ["other criteria"]),
    ],
)
def test_scores_that_cannot_be_compared_do_not_count(tmp_path, key, parts):
    """Of another version's mean (the first ones did not write which), or of other images."""
    cfg = get_mic_cfg(opts=["TEST.LABEL_FREE.DATASET", "fog_a"])
    hook = KeepBestLabelFree(cfg, None, CheckpointFiles(torch.nn.Linear(1, 1), str(tmp_path)), None)
    new = hook.state_dict()
    with logged("mic_det.engine.keep_best") as log:
        hook.load_state_dict({"best": 0.9, "step": 1, "above_start": 0.5, "start": 0.8, "start_samples": [0.8], **key})
    assert hook.state_dict() == new and (new["combination"], new["dataset"]) == (COMBINATION, "fog_a")
    assert len(log) == 1 and all(p in log[0] for p in ["do not count", BEST, *parts])


def test_a_new_run_in_the_folder_moves_the_file_away(data, straight):
    folder = data / "again"
    shutil.copytree(straight[0], folder)
    (folder / "config.yaml").write_text(straight[1].cfg.dump())
    moved = prepare_run_folder(str(folder))
    assert moved and not (folder / BEST).exists()
    assert (folder / "previous_1" / BEST).exists()


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"DATASETS__TARGET": [], "MODEL__META_ARCHITECTURE": "GeneralizedRCNN"}, ["TEST.LABEL_FREE", "DATASET"]),
        ({"TEST__LABEL_FREE": {"ENABLED": True, "DATASET": "nowhere"}}, ["TEST.LABEL_FREE.DATASET", "nowhere"]),
        ({"TEST__LABEL_FREE": {"ENABLED": True, "MAX_IMAGES": 0}}, ["TEST.LABEL_FREE.MAX_IMAGES"]),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_training(data, tmp_path, keys, words):
    with pytest.raises(ConfigError) as caught:
        check_datasets(load(tmp_path, run_config(data, tmp_path, **{**KEYS, **keys})))
    assert all(w in str(caught.value) for w in words)


def test_a_plain_detector_is_measured_on_the_named_set(data):
    keys = {k: v for k, v in KEYS.items() if not k.startswith(("MODEL__MIC", "MODEL__META", "DATASETS__TARGET"))}
    trainer = make_trainer(data, data / "plain", **{**keys, "TEST__LABEL_FREE": {"ENABLED": True, "DATASET": "fog"}})
    results = MICTrainer.test(trainer.cfg, trainer.model)["label_free"]
    assert set(results) == {"score", *COMBINATION}
    assert math.isfinite(results["score"])
