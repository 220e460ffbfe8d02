"""A run that is stopped and resumed takes the steps, bit by bit, that it would have taken without the stop."""

import json
import logging
import os
import shutil
import signal

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.modeling.meta_arch import retinanet
from fvcore.nn import sigmoid_focal_loss

from helpers.resume import MIC, Killed, make_trainer, metrics, same, saved, train
from mic_det.errors import NonFiniteError
from mic_det.utils.signals import TrainingStopped

pytestmark = pytest.mark.slow

EVALUATION = {"DATASETS__TEST": ["day"], "TEST__EVAL_PERIOD": 4}
PLAIN = {"DATALOADER__SAMPLER_TRAIN": "RepeatFactorTrainingSampler", "DATALOADER__REPEAT_THRESHOLD": 0.8}
# whose loss is divided by a running number of objects
RETINANET = {
    **{k: v for k, v in MIC.items() if "ALIGNMENT" not in k}, "MODEL__MIC__STUDENT": "RetinaNet",
    "MODEL__BACKBONE__NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL__RETINANET": {"NUM_CLASSES": 3, "NUM_CONVS": 1, "PRIOR_PROB": 0.2},
    "MODEL__ANCHOR_GENERATOR__SIZES": [[16], [32], [64], [96], [128]],
}  # fmt: skip
CASES = {"mic": {**MIC, **EVALUATION}, "plain": PLAIN, "retinanet": RETINANET}


@pytest.fixture(scope="module", autouse=True)
def loss_without_jit():
    """TorchScript's kernels differ in the last bit between the first calls of a process and later ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retinanet, "sigmoid_focal_loss_jit", sigmoid_focal_loss)
        yield


@pytest.fixture(scope="module")
def straight(data):
    """Runs that nobody stopped: name -> (folder, losses)."""
    return {name: (data / name, train(data, data / name, **keys)) for name, keys in CASES.items()}


def check_equal(output, losses, straight):
    folder, expected = straight
    assert losses and losses == {step: expected[step] for step in losses}
    assert metrics(output) == metrics(folder)
    ours, theirs = saved(output), saved(folder)
    assert same(ours["model"], theirs["model"])
    for state in (ours["trainer"], theirs["trainer"]):
        del state["hooks"]["RunWriter"]  # holds times
    assert same(ours["trainer"], theirs["trainer"])


@pytest.mark.parametrize(
    "case, period, at, keys",
    [
        ("mic", 5, 6, {"VIS_PERIOD": 5}),
        ("mic", 4, 6, {"DATALOADER__NUM_WORKERS": 2}),
        ("plain", 1, 5, {}),
        ("retinanet", 3, 4, {}),
    ],
    ids=["MIC with pictures", "MIC with workers", "plain", "RetinaNet"],
)
def test_killed_and_resumed(data, tmp_path, straight, case, period, at, keys):
    """The kill comes some steps after the last checkpoint; nothing but the folder is left."""
    keys = {**CASES[case], "SOLVER__CHECKPOINT_PERIOD": period, **keys}
    with pytest.raises(Killed):
        train(data, tmp_path / "run", at=at, **keys)
    # another seed: whatever is random must come from the checkpoint
    losses = train(data, tmp_path / "run", resume=True, **{**keys, "SEED": 77})
    assert min(losses) == at // period * period
    check_equal(tmp_path / "run", losses, straight[case])


def test_the_straight_run_proves_something(straight):
    """Batches of both shapes, pseudo-boxes, evaluations and random numbers all play a part in it."""
    folder, losses = straight["mic"]
    assert len({tuple(x.values()) for x in losses.values()}) == 8 and "masked/loss_cls" in losses[7]
    assert {r["iteration"]: "bbox/AP" in r for r in metrics(folder)} == {3: True, 7: False, 8: True}
    state = saved(folder)["trainer"]["hooks"]["ExactState"]
    assert state["data"]["batches"] == {"source": 16, "target": 16}
    assert len(state["random"]) == 1


class Spoil(HookBase):
    """Makes one gradient of step ``at`` NaN."""

    def __init__(self, at):
        self.at = at

    def after_backward(self):
        if self.trainer.iter == self.at:
            next(p.grad for p in self.trainer.model.parameters() if p.grad is not None)[0] = torch.nan


def test_a_step_whose_numbers_are_not_finite_is_taken_again_with_its_own_batch(data, tmp_path, straight):
    trainer, hook = make_trainer(data, tmp_path, **CASES["mic"]), Spoil(at=5)
    trainer._trainer.register_hooks([hook])
    hook.trainer = trainer
    with pytest.raises(NonFiniteError, match="model_0000004.pth"):
        trainer.train()
    losses = train(data, tmp_path, resume=True, **CASES["mic"])
    assert min(losses) == 5
    check_equal(tmp_path, losses, straight["mic"])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_in_progress(data, tmp_path, straight, signum):
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(TrainingStopped) as caught:
        train(data, tmp_path, at=3, act=lambda: os.kill(os.getpid(), signum), **CASES["mic"])
    assert caught.value.code == 128 + signum
    assert handlers == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    assert sorted(x for x in os.listdir(tmp_path) if "model" in x) == ["model_0000003.pth"]
    assert not any("bbox/AP" in row for row in metrics(tmp_path)), "the stop does not wait for the evaluation of step 4"
    losses = train(data, tmp_path, resume=True, **CASES["mic"])
    assert min(losses) == 4
    check_equal(tmp_path, losses, straight["mic"])


def test_the_second_ctrl_c_stops_at_once(data, tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, at=2, act=twice, **PLAIN)
    assert not list(tmp_path.glob("model_*"))


def test_a_run_of_which_the_final_checkpoint_alone_is_left_goes_on_from_it(data, tmp_path, straight):
    """Not from step 0 with the weights of the end, and MIC's teacher is not made anew."""
    train(data, tmp_path, **{**CASES["mic"], "SOLVER__MAX_ITER": 2, "SOLVER__LR_SCHEDULER_NAME": "WarmupMultiStepLR"})
    (tmp_path / "last_checkpoint").unlink()
    before = saved(tmp_path)
    trainer = make_trainer(data, tmp_path, True, **CASES["mic"], MODEL__WEIGHTS=str(tmp_path / "model_final.pth"))
    assert trainer.start_iter == 2 and same(dict(trainer.checkpointer.model.state_dict()), dict(before["model"]))


def test_a_finished_run_can_be_made_longer_and_keeps_its_evaluation(data, tmp_path):
    keys = {**PLAIN, "DATASETS__TEST": ["day"]}
    train(data, tmp_path, **keys, SOLVER__MAX_ITER=2)
    first = metrics(tmp_path)
    assert [r["iteration"] for r in first] == [1, 2] and "bbox/AP" in first[1]
    train(data, tmp_path, resume=True, **keys, SOLVER__MAX_ITER=2)  # only the evaluation is done again
    assert metrics(tmp_path) == first
    train(data, tmp_path, resume=True, **keys, SOLVER__MAX_ITER=3)
    # the last row of losses was written for the end alone; now there is another end
    assert metrics(tmp_path)[0] == first[1]
    assert [("total_loss" in r, r["iteration"]) for r in metrics(tmp_path)] == [(False, 2), (True, 2), (False, 3)]


def test_a_float16_run_keeps_its_loss_scale(data, tmp_path):
    keys = {**PLAIN, "SOLVER__AMP": {"ENABLED": True, "DTYPE": "float16"}}
    expected = train(data, tmp_path / "straight", **keys)
    with pytest.raises(Killed):
        train(data, tmp_path / "run", at=5, **keys, SOLVER__CHECKPOINT_PERIOD=4)
    losses = train(data, tmp_path / "run", resume=True, **keys)
    scaler = saved(tmp_path / "straight")["trainer"]["_trainer"]["grad_scaler"]
    assert scaler == saved(tmp_path / "run")["trainer"]["_trainer"]["grad_scaler"] and scaler["scale"]
    assert losses == {step: expected[step] for step in range(4, 8)}


# --------------------------------------------------------------------------------- what cannot be exact


@pytest.fixture(scope="module")
def stopped(data):
    """A run of 2 steps that was to have 8."""
    with pytest.raises(Killed):
        train(data, data / "stopped", at=2, **{**MIC, "SOLVER__CHECKPOINT_PERIOD": 1})
    return data / "stopped"


def warnings_of_resume(data, stopped, tmp_path, caplog, **keys):
    shutil.copytree(stopped, tmp_path / "run")
    with caplog.at_level(logging.WARNING, logger="mic_det"):
        losses = train(data, tmp_path / "run", resume=True, **{**MIC, "SOLVER__MAX_ITER": 3, **keys})
    assert list(losses) == [2]
    return [r.getMessage() for r in caplog.records if r.name.startswith("mic_det.engine.resume")]


@pytest.mark.parametrize(
    "keys, told",
    [
        ({"SOLVER__IMS_PER_BATCH": 1}, ["SOLVER.IMS_PER_BATCH: was 2, is 1"]),
        ({"SOLVER__ACCUMULATE_STEPS": 1, "INPUT__MAX_SIZE_TRAIN": 90}, ["SOLVER.ACCUMULATE_STEPS: was 2", "INPUT.MAX"]),
        ({"DATASETS__TARGET": ["fog", "fog2"]}, ["images of DATASETS.TARGET: was 7, is 14"]),
    ],
    ids=["batch size", "several", "data"],
)
def test_settings_that_make_it_inexact_are_told_in_one_warning(data, stopped, tmp_path, caplog, keys, told):
    if "DATASETS__TARGET" in keys:
        keys["DATASETS__CUSTOM__fog2"] = {"IMAGES": str(data / "fog")}
    (message,) = warnings_of_resume(data, stopped, tmp_path, caplog, **keys)
    assert all(x in message for x in told)
    assert "CHECKPOINT_PERIOD" not in message


def test_settings_that_do_not_matter_are_not_told(data, stopped, tmp_path, caplog):
    keys = {"SOLVER__LR_SCHEDULER_NAME": "WarmupCosineLR", "SOLVER__MAX_ITER": 8, "SEED": 3, "VIS_PERIOD": 1000}
    shutil.copytree(stopped, tmp_path / "run")
    with caplog.at_level(logging.WARNING, logger="mic_det"):
        train(data, tmp_path / "run", resume=True, **{**MIC, **keys, "SOLVER__CHECKPOINT_KEEP": 2})
    assert not [r for r in caplog.records if r.name.startswith("mic_det.engine.resume")]
    # a checkpoint a step would be 6 files
    assert sorted(p.name for p in (tmp_path / "run").glob("model_0*")) == ["model_0000000.pth", "model_0000001.pth"]


def test_a_checkpoint_of_another_trainer_goes_on_with_a_warning(data, stopped, tmp_path, caplog):
    """As Detectron2's own trainer writes them, without the states that are added here."""
    shutil.copytree(stopped, tmp_path / "run")
    state = saved(stopped, "model_0000001.pth")
    state["trainer"]["hooks"] = {"LRScheduler": state["trainer"]["hooks"]["LRScheduler"]}
    torch.save(state, tmp_path / "run/model_0000001.pth")
    rows = [json.dumps({"iteration": step, "lr": 0.0}) for step in (2, 1, 2)]  # a step that is done again, cut off
    (tmp_path / "run/metrics.json").write_text("\n".join(rows)[:-3])
    with caplog.at_level(logging.WARNING, logger="mic_det"):
        losses = train(data, tmp_path / "run", resume=True, **MIC, SOLVER__MAX_ITER=3)
    assert list(losses) == [2]
    assert "does not say how far the data were used" in caplog.text
    assert [r["iteration"] for r in metrics(tmp_path / "run")] == [1, 2]
