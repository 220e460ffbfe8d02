"""Losses and gradients that are not finite: what is told, what is kept, and what never gets them."""

import itertools
import math

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from helpers.data import forget_registered_sets, load, tiny_config, write_two_domains
from mic_det.engine.non_finite import NonFiniteHandler
from mic_det.engine.train_loop import AccumulatingTrainer
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import NonFiniteError
from mic_det.modeling.student_teacher import StudentTeacher
from mic_det.utils.plain_containers import to_plain_containers

pytestmark = pytest.mark.slow


class Model(nn.Module):
    """Losses of images of four numbers; the image's ``kind`` says what goes wrong in them."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, batch):
        kinds = {x.get("kind") for x in batch}
        if "raises" in kinds:
            raise FloatingPointError("Predicted boxes or scores\ncontain Inf/NaN.")
        out = self.last(self.first(torch.stack([x["image"] for x in batch])).tanh())
        losses = {"loss_a": out.float().square().mean(), "loss_b": 0.1 * out.float().abs().mean()}
        if "infinite" in kinds:  # a loss whose gradient is finite: 0
            losses["loss_b"] = losses["loss_b"].detach() + math.inf
        if "nan" in kinds:
            losses["loss_a"] = losses["loss_a"] * math.nan
        if "gradient" in kinds:  # a finite loss, the square root of 0, whose gradient is not
            losses["loss_b"] = losses["loss_b"] + (self.last.bias - self.last.bias.detach()).sqrt().sum()
        return losses


class Teaching(StudentTeacher):
    def __init__(self):
        super().__init__(Model(), Model(), alpha=0.5)

    def forward(self, batch):
        self.begin_step()
        return self.student(batch)


def images(*kinds):
    """A batch with an image of each kind."""
    return [
        {"image": torch.arange(4.0) + i, "kind": k, "file_name": f"{k}_{i}.png", "domain": "source"}
        for i, k in enumerate(kinds)
    ]


GOOD = images("good", "good")


def make(batches, check=None, model=None, **kwargs):
    torch.manual_seed(0)
    model = (model or Model()).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    return AccumulatingTrainer(model, itertools.cycle(batches), optimizer, finite=check, **kwargs)


def run(trainer, steps):
    """Run steps as Detectron2's loop does; returns what was logged."""
    with EventStorage() as storage:
        for _ in range(steps):
            storage.iter = trainer.iter
            trainer.run_step()
            trainer.iter += 1
        return storage


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


WHAT = {
    "nan": "loss_a is nan",
    "infinite": "loss_b is inf",
    "raises": "the forward pass stopped (Predicted boxes or scores contain Inf/NaN)",
    "gradient": "all losses are finite, but the gradient of last.bias is not",
}


@pytest.mark.parametrize("kind", WHAT)
def test_the_run_stops_before_the_weights_are_touched(tmp_path, kind):
    bad = images("good", kind)
    trainer = make([GOOD, GOOD, bad], NonFiniteHandler(str(tmp_path)))
    run(trainer, 2)
    before, momentum = weights(trainer.model), trainer.optimizer.state_dict()["state"][0]["momentum_buffer"].clone()
    with pytest.raises(NonFiniteError) as caught:
        run(trainer, 1)
    message = str(caught.value)
    assert message.startswith(f"iteration 2: {WHAT[kind]}; images: good_0.png, {kind}_1.png."), message
    assert "SOLVER.BASE_LR" in message and "SOLVER.NON_FINITE.SKIP_STEPS" in message and "\n" not in message
    assert torch.equal(weights(trainer.model), before)
    assert torch.equal(trainer.optimizer.state_dict()["state"][0]["momentum_buffer"], momentum)

    saved = torch.load(tmp_path / "non_finite/iteration_0000002_rank0.pth", weights_only=True)
    inputs, losses = (saved["micro_batches"][0][k] for k in ("inputs", "losses"))
    assert saved["iteration"] == 2 and str(tmp_path / "non_finite") in message
    assert [x["file_name"] for x in inputs] == [x["file_name"] for x in bad]
    assert all(torch.equal(x["image"], y["image"]) for x, y in zip(inputs, bad))
    if kind == "nan":
        assert math.isnan(losses["loss_a"]) and math.isfinite(losses["loss_b"])


@pytest.mark.parametrize("kind", WHAT)
def test_skipped_steps_leave_no_trace(caplog, kind):
    plain_run = make([GOOD], model=Teaching())
    run(plain_run, 3)
    trainer = make(
        [GOOD, images(kind), GOOD, images("good", kind), GOOD], NonFiniteHandler(skip_steps=2), model=Teaching()
    )
    logged = run(trainer, 5)
    for model in (trainer.model, plain_run.model):
        model.update_teacher()
    assert torch.equal(weights(trainer.model.student), weights(plain_run.model.student))
    assert torch.equal(weights(trainer.model.teacher), weights(plain_run.model.teacher))
    assert trainer.model.steps == 3
    assert [i for _, i in logged.history("total_loss").values()] == [0, 2, 4]
    assert "iteration 1: " + WHAT[kind].split(",")[0] in caplog.text and "(2 of 2)" in caplog.text
    with pytest.raises(NonFiniteError, match="iteration 6.*2 such steps were skipped before"):
        run(trainer, 2)


def test_only_the_images_of_the_micro_batch_that_went_wrong_are_named(tmp_path):
    trainer = make([GOOD, images("nan"), images("fine")], NonFiniteHandler(str(tmp_path)), accumulate_steps=3)
    with pytest.raises(NonFiniteError, match=r"loss_a is nan; images: nan_0.png\."):
        run(trainer, 1)
    saved = torch.load(tmp_path / "non_finite/iteration_0000000_rank0.pth", weights_only=True)
    assert len(saved["micro_batches"]) == 3


def test_skipped_steps_are_counted_on_after_a_resume():
    first = make([images("nan")], NonFiniteHandler(skip_steps=2))
    run(first, 2)
    second = make([images("nan")], NonFiniteHandler(skip_steps=2))
    second.load_state_dict(first.state_dict())
    with pytest.raises(NonFiniteError):
        run(second, 1)


def test_statistics_that_the_pass_has_spoilt_cannot_be_skipped():
    class Normalised(Model):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, batch):
            seen = self.norm(torch.stack([x["image"] for x in batch]))
            return super().forward([{**x, "image": row} for x, row in zip(batch, seen)])

    bad = [{**x, "image": x["image"] * math.nan} for x in GOOD]
    trainer = make([GOOD, bad], NonFiniteHandler(skip_steps=9), model=Normalised())
    with pytest.raises(NonFiniteError, match="norm.running_mean.*earlier checkpoint"):
        run(trainer, 2)


# ----------------------------------------------------------------------------------------- float16


def test_overflows_of_float16_are_the_scalers_business_until_they_persist():
    check = NonFiniteHandler(max_overflows=3)
    trainer = make([GOOD], check, amp_dtype=torch.float16)
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = weights(trainer.model)
    run(trainer, 2)
    assert torch.equal(weights(trainer.model), before) and trainer.grad_scaler.get_scale() == 2.0**38
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    run(trainer, 1)
    assert check.overflows == 0 and not torch.equal(weights(trainer.model), before)
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    with pytest.raises(NonFiniteError, match=r"in 4 steps in a row.*iteration 6.*MAX_OVERFLOWS.*bfloat16"):
        run(trainer, 9)
    assert check.skipped == 0


def test_a_loss_that_is_nan_in_float16_is_no_overflow():
    trainer = make([images("nan")], NonFiniteHandler(max_overflows=9), amp_dtype=torch.float16)
    with pytest.raises(NonFiniteError, match="loss_a is nan"):
        run(trainer, 1)


# ------------------------------------------------------------------------------------- the trainer


def test_the_trainer_keeps_the_state_before_and_goes_on_from_it(tmp_path):
    write_two_domains(tmp_path)
    keys = {
        "MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"], "DATASETS__TEST": [],
        "MODEL__MIC__PSEUDO_BOXES": {"SCORE_THRESHOLD": 0.05}, "SOLVER__MAX_ITER": 4,
    }  # fmt: skip
    (tmp_path / "out").mkdir()
    with forget_registered_sets():
        cfg = load(tmp_path, tiny_config(tmp_path, tmp_path / "out", **keys))
        trainer = MICTrainer(cfg)
        inner, seen = trainer._trainer, []
        loader = iter(inner.data_loader)

        def broken():
            for i, batch in enumerate(loader):
                if i == 2:
                    seen.append(weights(trainer.checkpointer.model.student))
                    batch[-1]["image"] = torch.full((3, 64, 96), math.nan)  # a target image
                yield batch

        inner._data_loader_iter_obj = broken()  # Detectron2 makes it of the loader when it is first needed
        with pytest.raises(NonFiniteError) as caught:
            trainer.train()
        told = str(caught.value).split("images: ")[1].split(". ")[0].split(", ")
        assert len(told) == 4 and set(told) <= {str(p) for p in tmp_path.glob("*/images/train_*.png")}
        checkpoint = tmp_path / "out/model_0000001.pth"
        assert str(caught.value).endswith(f"The state before it is in {checkpoint}.")
        state = torch.load(checkpoint, weights_only=True)
        assert state["iteration"] == 1 and all(v.isfinite().all() for v in state["model"].values())
        student = {k: v for k, v in state["model"].items() if k.startswith("student.")}
        own = dict(trainer.checkpointer.model.student.named_parameters())
        assert torch.equal(torch.cat([student[f"student.{k}"].flatten() for k in own]), seen[0])

        resumed = MICTrainer(cfg)
        resumed.resume_or_load(resume=True)
        assert resumed.start_iter == 2
        resumed.train()
        assert resumed.iter == 4 and resumed.checkpointer.model.steps == 4


def test_plain_data_is_loaded_without_running_code(tmp_path):
    x = Instances((4, 6), gt_boxes=Boxes(torch.ones(2, 4)), gt_classes=torch.tensor([1, 2]))
    x.gt_masks = BitMasks(torch.ones(2, 4, 6, dtype=torch.bool))
    y = Instances((4, 6), gt_masks=PolygonMasks([[np.array([0.0, 0, 2, 0, 2, 3])]]))
    data = [{"instances": x, "other": y, "size": (np.int64(4), 6), "name": None, "dtype": np.dtype("f4")}]
    torch.save(to_plain_containers(data), tmp_path / "x.pth")
    (found,) = torch.load(tmp_path / "x.pth", weights_only=True)
    assert found["instances"]["image_size"] == [4, 6] and found["size"] == [4, 6] and found["name"] is None
    assert torch.equal(found["instances"]["gt_boxes"], torch.ones(2, 4))
    assert found["instances"]["gt_masks"].shape == (2, 4, 6)
    assert found["other"]["gt_masks"][0][0].tolist() == [0, 0, 2, 0, 2, 3]
