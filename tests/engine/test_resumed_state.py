"""A run resumed with another model or from a tampered checkpoint: what fits is taken, what is malformed refused."""

import logging
import math
import shutil

import pytest
import torch

from helpers.resume import MIC, make_trainer, metrics, same, saved
from mic_det.errors import CheckpointError, NonFiniteError

pytestmark = pytest.mark.slow

LAST = "model_0000001.pth"
KEYS = {**MIC, "SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__LR_SCHEDULER_NAME": "WarmupMultiStepLR"}


@pytest.fixture(scope="module")
def stopped(data):
    """Checkpoints of two steps of a run of MIC with all parts of an alignment."""
    trainer = make_trainer(data, data / "stopped", **KEYS, SOLVER__MAX_ITER=2)
    trainer.train()
    (data / "stopped/model_final.pth").unlink()
    (data / "stopped/last_checkpoint").write_text(LAST)
    return data / "stopped"


@pytest.fixture
def run(data, stopped, tmp_path, caplog):
    """A copy of the run, as (folder, a function that resumes it with some keys and trains one step)."""
    shutil.copytree(stopped, tmp_path / "run")

    def resume(steps=1, **keys):
        with caplog.at_level(logging.WARNING):
            trainer = make_trainer(data, tmp_path / "run", True, **{**KEYS, "SOLVER__MAX_ITER": 2 + steps, **keys})
            trainer.train()
        return trainer

    return tmp_path / "run", resume


def inexact(caplog):
    found = [r.getMessage() for r in caplog.records if "not exactly" in r.getMessage()]
    assert len(found) <= 1
    return found[0] if found else ""


def momentum(state):
    inner = state["trainer"]["_trainer"]
    ids = [i for g in inner["optimizer"]["param_groups"] for i in g["params"]]
    return {n: inner["optimizer"]["state"].get(i, {}).get("momentum_buffer")
            for n, i in zip(inner["optimizer_names"], ids)}  # fmt: skip


def tamper(folder, change, name=LAST):
    state = saved(folder, name)
    change(state)
    torch.save(state, folder / name)


# ------------------------------------------------------------------------------------ another model


def four_classes(data):
    import json

    content = json.loads((data / "day.json").read_text())
    content["categories"].append({"id": 9, "name": "yellow"})
    (data / "day4.json").write_text(json.dumps(content))
    return {"DATASETS__CUSTOM__day": {"JSON": str(data / "day4.json"), "IMAGES": str(data / "day")}}


ALIGNMENT = MIC["MODEL__MIC__ALIGNMENT"]
OTHERS = {
    "another number of classes": (
        {"MODEL__ROI_HEADS__NUM_CLASSES": 4},
        ["student.roi_heads.box_predictor.cls_score.weight", "student.roi_heads.box_predictor.cls_score.bias",
         "student.roi_heads.box_predictor.bbox_pred.weight", "student.roi_heads.box_predictor.bbox_pred.bias"],
        "MODEL.ROI_HEADS.NUM_CLASSES: was 3, is 4",
    ),
    "a wider domain classifier": (
        {"MODEL__MIC__ALIGNMENT": {**ALIGNMENT, "INSTANCE": {"ENABLED": True, "FC_DIM": 12}}}, ["alignment."],
        "FC_DIM: was 8, is 12",
    ),
    "a narrower domain classifier": (
        {"MODEL__MIC__ALIGNMENT": {**ALIGNMENT, "INSTANCE": {"ENABLED": True, "FC_DIM": 4}}}, ["alignment."],
        "FC_DIM: was 8, is 4",
    ),
    "fewer parts of the alignment": (
        {"MODEL__MIC__ALIGNMENT": {"SCHEDULE": "dann", "IMAGE": ALIGNMENT["IMAGE"]}},
        [], "MODEL.MIC.ALIGNMENT.INSTANCE.ENABLED: was True, is False",
    ),
    "a frozen stage": ({"MODEL__BACKBONE__FREEZE_AT": 2}, [], "MODEL.BACKBONE.FREEZE_AT: was 0, is 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_momentum_goes_to_its_parameter_by_name_and_shape(data, run, caplog, name):
    folder, resume = run
    keys, anew, told = OTHERS[name]
    if "NUM_CLASSES" in told:
        keys = {**keys, **four_classes(data)}
    before = momentum(saved(folder, LAST))
    weights = saved(folder, LAST)["model"]
    (folder / LAST).touch()
    # no step: what is loaded is looked at
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(data, folder, True, **{**KEYS, **keys})
    state = {"trainer": trainer.state_dict()}
    own = {k for k, p in trainer.checkpointer.model.named_parameters()}
    after = momentum(state)
    assert after.keys() <= own and after.keys() & before.keys()
    for key, value in after.items():
        if any(key.startswith(x) for x in anew) and (value is None or key not in before):
            assert value is None
        elif key in before and weights[key].shape == trainer.checkpointer.model.state_dict()[key].shape:
            assert (value is None) == (before[key] is None) and (value is None or torch.equal(value, before[key])), key
        else:
            assert value is None, key
    trainer.max_iter = 3
    with caplog.at_level(logging.WARNING):
        trainer.train()
    message = inexact(caplog)
    assert told in message and "OUTPUT_DIR" in message and "\n" not in message
    restarted = [k for k in after if before.get(k) is not None and after[k] is None]
    assert bool(restarted) == ("momentum that start from zero" in message) or not anew


def test_a_stage_that_is_no_longer_frozen_starts_its_momentum(data, tmp_path, caplog):
    keys = {**KEYS, "MODEL__BACKBONE__FREEZE_AT": 2, "SOLVER__MAX_ITER": 1}
    make_trainer(data, tmp_path, **keys).train()
    before = momentum(saved(tmp_path))
    trainer = make_trainer(data, tmp_path, True, **{**keys, "MODEL__BACKBONE__FREEZE_AT": 0, "SOLVER__MAX_ITER": 2})
    after = momentum({"trainer": trainer.state_dict()})
    assert len(after) > len(before)
    assert all(same(after[k], before[k]) if before[k] is not None else after[k] is None for k in before)
    assert all(after[k] is None for k in after.keys() - before.keys())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "momentum that start from zero: student.backbone.bottom_up" in inexact(caplog)


def test_options_of_the_optimizer_are_the_configs(data, run, caplog):
    """Weight decay, momentum and learning rate of a resumed run are those that its config says, and the log says so."""
    folder, resume = run
    keys = {"SOLVER__BASE_LR": 0.002, "SOLVER__MOMENTUM": 0.5, "SOLVER__WEIGHT_DECAY": 0.25, "SOLVER__WARMUP_ITERS": 0}
    trainer = resume(**keys)
    (group,) = trainer.optimizer.param_groups
    assert (group["momentum"], group["weight_decay"], group["lr"]) == (0.5, 0.25, 0.002)
    assert [r["lr"] for r in metrics(folder) if "lr" in r][-1] == 0.002
    assert "SOLVER.BASE_LR: was 0.01, is 0.002" in inexact(caplog)


def test_states_of_earlier_versions_have_no_names(data, run, caplog):
    folder, resume = run
    before = momentum(saved(folder, LAST))
    tamper(folder, lambda s: s["trainer"]["_trainer"].pop("optimizer_names"))
    trainer = make_trainer(data, folder, True, **{**KEYS, "SOLVER__MAX_ITER": 3})
    assert same(momentum({"trainer": trainer.state_dict()}), before)
    # places tell nothing where shapes differ
    trainer = make_trainer(data, folder, True, **{**KEYS, **OTHERS["a wider domain classifier"][0]})
    assert not trainer._trainer.optimizer.state_dict()["state"]
    assert len(trainer._trainer.restarted) == len(trainer._trainer.optimizer.param_groups[0]["params"])


def test_teacher_and_student_fill_each_others_gaps(run, data):
    folder, resume = run
    key = "roi_heads.box_predictor.cls_score.weight"

    def cut(state):
        state["model"][f"teacher.{key}"] = torch.zeros(7, 16)
        del state["model"]["student.roi_heads.box_predictor.bbox_pred.bias"]

    tamper(folder, cut)
    expected = saved(folder, LAST)["model"]
    model = make_trainer(data, folder, True, **KEYS).checkpointer.model.state_dict()
    assert torch.equal(model[f"teacher.{key}"], expected[f"student.{key}"])
    bias = "roi_heads.box_predictor.bbox_pred.bias"
    assert torch.equal(model[f"student.{bias}"], expected[f"teacher.{bias}"])


# ----------------------------------------------------------------------------------- tampered states


def optimizer(state):
    return state["trainer"]["_trainer"]["optimizer"]


def first(state):
    return next(v for v in optimizer(state)["state"].values() if v.get("momentum_buffer") is not None)


def put(container, key, value):
    container[key] = value


def exact(state):
    return state["trainer"]["hooks"]["ExactState"]


TAMPERED = {
    "NaN momentum": (lambda s: first(s)["momentum_buffer"].view(-1).__setitem__(0, math.nan), "momentum_buffer"),
    "infinite momentum": (lambda s: first(s)["momentum_buffer"].fill_(math.inf), "momentum_buffer"),
    "momentum of text": (lambda s: put(first(s), "momentum_buffer", "x"), "momentum_buffer"),
    "whole numbers": (lambda s: put(first(s), "momentum_buffer", first(s)["momentum_buffer"].long()), "floating"),
    "complex": (lambda s: put(first(s), "momentum_buffer", first(s)["momentum_buffer"] + 0j), "dense"),
    "sparse": (lambda s: put(first(s), "momentum_buffer", torch.eye(3).to_sparse()), "sparse"),
    "meta": (lambda s: put(first(s), "momentum_buffer", torch.empty(3, device="meta")), "meta"),
    "no state": (lambda s: optimizer(s).pop("state"), "optimizer.state"),
    "state of another parameter": (lambda s: put(optimizer(s)["state"], 9999, {}), "9999"),
    "list of states": (lambda s: put(optimizer(s), "state", []), "optimizer.state"),
    "no groups": (lambda s: optimizer(s).pop("param_groups"), "param_groups"),
    "groups of text": (lambda s: put(optimizer(s), "param_groups", ["x"]), "param_groups"),
    "a parameter twice": (lambda s: optimizer(s)["param_groups"].append(optimizer(s)["param_groups"][0]), "once"),
    "too few names": (lambda s: s["trainer"]["_trainer"]["optimizer_names"].pop(), "optimizer_names"),
    "no optimizer": (lambda s: s["trainer"]["_trainer"].pop("optimizer"), "optimizer"),
    "negative step": (lambda s: put(s["trainer"], "iteration", -5), "iteration"),
    "step of text": (lambda s: put(s["trainer"], "iteration", "1"), "iteration"),
    "no step": (lambda s: s["trainer"].pop("iteration"), "iteration"),
    "huge step": (lambda s: put(s["trainer"], "iteration", 10**400), "iteration"),
    "no trainer": (lambda s: s.pop("trainer"), "without the state of a training"),
    "trainer of text": (lambda s: put(s, "trainer", "x"), "trainer"),
    "scaler": (lambda s: put(s["trainer"]["_trainer"], "grad_scaler", {"scale": math.nan}), "grad_scaler.scale"),
    "counters": (lambda s: put(s["trainer"]["_trainer"]["finite"], "skipped", None), "skipped"),
    "random numbers": (lambda s: put(exact(s)["random"][0], "torch", torch.zeros(3, dtype=torch.uint8)), "torch"),
    "NumPy's place": (lambda s: put(exact(s)["random"][0], "numpy", ("MT19937", torch.zeros(624).long(), -7, 0, 0.0)),
                      "numpy"),
    "Python's numbers": (lambda s: put(exact(s)["random"][0], "python", (3, (1, 2), None)), "python"),
    "no random numbers": (lambda s: put(exact(s), "random", []), "random"),
    "NaN normalizer": (lambda s: put(exact(s), "normalizers", [[{"loss_normalizer": math.nan}]]), "normalizers"),
    "an unknown normalizer": (lambda s: put(exact(s), "normalizers", [[{"training": 1.0}]]), "normalizers"),
    "normalizers of no process": (lambda s: put(exact(s), "normalizers", []), "normalizers"),
    "endless data": (lambda s: put(exact(s)["data"]["batches"], "source", 10**15), "batches.source"),
    "settings": (lambda s: put(exact(s), "settings", {"SEED": 3}), "settings"),
    "logged values": (lambda s: put(s["trainer"]["hooks"]["RunWriter"], "values", {"x": 3}), "RunWriter.values"),
    "NaN weights": (lambda s: s["model"]["student.proposal_generator.rpn_head.conv.bias"].fill_(math.nan), "conv.bias"),
    "negative steps of the teacher": (lambda s: put(s["model"], "num_steps", torch.tensor(-3)), "num_steps"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_checkpoint_is_named_and_the_one_before_is_taken(data, run, caplog, name):
    folder, resume = run
    change, part = TAMPERED[name]
    tamper(folder, change)
    if name != "negative steps of the teacher":  # found when it is loaded
        trainer = make_trainer(data, folder, True, **KEYS)
        assert trainer.start_iter == 1
        (told,) = [r.getMessage() for r in caplog.records if "is damaged" in r.getMessage()]
        assert part in told and LAST in told and "\n" not in told
        (folder / "model_0000000.pth").unlink()
    with pytest.raises(CheckpointError, match=part) as caught:
        make_trainer(data, folder, True, **KEYS)
    assert LAST in str(caught.value) and "\n" not in str(caught.value)


def test_momentum_that_is_too_large_for_its_number_format(data, run):
    folder, resume = run
    tamper(folder, lambda s: put(first(s), "momentum_buffer", first(s)["momentum_buffer"].double() + 1e300))
    with pytest.raises(CheckpointError, match="beyond torch.float32"):
        make_trainer(data, folder, True, **KEYS)


def test_a_state_with_more_and_less_than_momentum_still_steps(run):
    """Entries that SGD does not know are harmless; a missing momentum starts at 0."""
    folder, resume = run

    def change(state):
        first(state)["exp_avg"] = torch.zeros_like(first(state)["momentum_buffer"])
        list(optimizer(state)["state"].values())[3]["momentum_buffer"] = None
        optimizer(state)["param_groups"][0]["lr"] = "x"  # the config's counts

    tamper(folder, change)
    assert resume().iter == 3


# ---------------------------------------------------------------------------------- finite numbers


@pytest.mark.parametrize("period", [1, 1000])
def test_an_update_that_overflows_is_never_saved(data, tmp_path, period):
    """Losses and gradients of the step are finite: only the new weights are not."""
    keys = {**KEYS, "SOLVER__CHECKPOINT_PERIOD": period, "SOLVER__MAX_ITER": 2}
    make_trainer(data, tmp_path, **keys).train()
    good = {p.name for p in tmp_path.glob("*.pth")}
    trainer = make_trainer(data, tmp_path, True, **{**keys, "SOLVER__BASE_LR": 3e38, "SOLVER__MAX_ITER": 9})
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    message = str(caught.value)
    assert (
        "model_final.pth" in message and "is NaN or infinite" in message and "The state before it is in" not in message
    )
    assert {p.name for p in tmp_path.glob("*.pth")} == good
    for file in good:
        state = saved(tmp_path, file)
        assert all(v.isfinite().all() for v in state["model"].values())
    again = make_trainer(data, tmp_path, True, **{**keys, "SOLVER__MAX_ITER": 3})
    again.train()
    assert again.start_iter == 2


def test_the_last_step_of_a_run_that_overflows(data, tmp_path):
    trainer = make_trainer(data, tmp_path, **{**KEYS, "SOLVER__BASE_LR": 3e38, "SOLVER__MAX_ITER": 1,
                                              "SOLVER__WARMUP_ITERS": 0})  # fmt: skip
    with pytest.raises(NonFiniteError, match="saved no checkpoint yet"):
        trainer.train()
    assert not list(tmp_path.glob("*.pth"))


def test_a_file_of_an_older_run_is_not_the_state_before(data, run):
    """A step that fails names the checkpoint of its own run; another run's file of that step is replaced."""
    folder, resume = run
    trainer = make_trainer(data, folder, **{**KEYS, "SOLVER__CHECKPOINT_PERIOD": 1000, "SOLVER__MAX_ITER": 4})
    old, inner = (folder / LAST).read_bytes(), trainer._trainer
    backward, calls = inner.after_backward, []

    def spoil():
        calls.append(1)
        if len(calls) == 3:
            next(p.grad for p in trainer.model.parameters() if p.grad is not None).fill_(math.nan)
        backward()

    inner.after_backward = spoil
    with pytest.raises(NonFiniteError, match=f"The state before it is in .*{LAST}"):
        trainer.train()
    assert (folder / LAST).read_bytes() != old
    assert saved(folder, LAST)["trainer"]["iteration"] == 1
