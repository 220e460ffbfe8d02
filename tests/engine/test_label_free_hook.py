"""TEST.LABEL_FREE: what is measured without labels in a training, and the weights that are kept for it."""

import math
import shutil

import pytest

from helpers.data import forget_registered_sets, load
from helpers.resume import MIC, make_trainer, metrics, run_config, same, saved, write_mixed_domains
from mic_det.data.run_sets import check_datasets
from mic_det.engine.run_folder import prepare_run_folder
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
    assert before == {"best": found[1], "step": 1}
    resumed = train(data, folder, resume=True, SOLVER__CHECKPOINT_PERIOD=3)
    assert same(saved(folder, BEST), saved(straight[0], BEST))
    assert scores(resumed) == found


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
