"""One optimizer step over micro-batches, in float32 and in mixed precision."""

import copy
import itertools

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from mic_det.engine.train_loop import AccumulatingTrainer
from mic_det.modeling.student_teacher import StudentTeacher

pytestmark = pytest.mark.slow

LR = 0.1


class Regression(nn.Module):
    """Two mean losses of a small network, as a detector's losses are means over its batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))
        self.dtypes = set()

    def forward(self, batch):
        x, y = batch
        out = self.net(x)
        self.dtypes.add(out.dtype)
        out = out.float()
        return {"loss_square": (out - y).square().mean(), "loss_abs": 0.3 * (out - y).abs().mean()}


class SelfTraining(StudentTeacher):
    """The bookkeeping of MIC's teacher around a model that needs no images."""

    def __init__(self, alpha):
        super().__init__(Regression(), Regression(), alpha=alpha)

    def forward(self, batch):
        self.begin_step()
        return self.student(batch)


def make_batches(count, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 5, generator=generator), torch.randn(size, 1, generator=generator)) for _ in range(count)
    ]


def make_trainer(model, batches, momentum=0.0, **kwargs):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LR, momentum=momentum)
    return AccumulatingTrainer(model.train(), itertools.cycle(batches), optimizer, **kwargs)


def run(trainer, steps=1):
    """Run steps as Detectron2's loop does; returns the metrics of the last one."""
    with EventStorage() as storage:
        for trainer.iter in range(steps):
            storage.iter = trainer.iter
            trainer.run_step()
        return {k: v[0] for k, v in storage.latest().items()}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Regression()


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
def test_accumulated_micro_batches_step_as_one_big_batch(model, micro_batches):
    reference = copy.deepcopy(model)
    batches = make_batches(micro_batches)
    big = tuple(torch.cat(part) for part in zip(*batches))
    sum(reference(big).values()).backward()
    expected = torch.cat([(p - LR * p.grad).detach().flatten() for p in reference.parameters()])
    start = weights(model)

    metrics = run(make_trainer(model, batches, accumulate_steps=micro_batches))

    assert torch.allclose(weights(model), expected, rtol=0, atol=1e-6)
    assert (expected - start).abs().max() > 1e-2, "the step is large against the tolerance"
    with torch.no_grad():
        losses = {k: float(v) for k, v in reference(big).items()}
    assert metrics["loss_square"] == pytest.approx(losses["loss_square"], rel=1e-5)
    assert metrics["loss_abs"] == pytest.approx(losses["loss_abs"], rel=1e-5)
    assert metrics["total_loss"] == pytest.approx(sum(losses.values()), rel=1e-5)


def test_each_step_takes_as_many_batches_as_it_accumulates(model):
    taken = []
    batches = (taken.append(i) or b for i, b in enumerate(make_batches(12)))
    trainer = AccumulatingTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=LR), accumulate_steps=3)
    run(trainer, steps=2)
    assert taken == list(range(6))


def test_gradients_do_not_leak_from_one_step_into_the_next(model):
    batches = make_batches(2)
    reference = copy.deepcopy(model)
    for batch in batches:
        grads = torch.autograd.grad(sum(reference(batch).values()), list(reference.parameters()))
        with torch.no_grad():
            for p, g in zip(reference.parameters(), grads):
                p -= LR * g
    run(make_trainer(model, batches), steps=2)
    assert torch.allclose(weights(model), weights(reference), rtol=0, atol=1e-6)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_teacher_is_updated_once_a_step(micro_batches):
    torch.manual_seed(0)
    alpha, model = 0.6, SelfTraining(0.6)
    trainer = make_trainer(model, make_batches(7), accumulate_steps=micro_batches)
    average = weights(model.student)  # Eq. 7 by hand, on flat vectors
    for t in range(1, 6):
        run(trainer)
        model.update_teacher()
        a = min(1 - 1 / (t + 1), alpha)
        average = a * average + (1 - a) * weights(model.student)
        assert model.steps == t
        assert torch.allclose(weights(model.teacher), average, rtol=0, atol=1e-6)
    assert not torch.allclose(average, weights(model.student), atol=1e-3)


def test_metrics_are_the_mean_where_a_loss_is_missing_in_some_micro_batches(model):
    class Sometimes(Regression):
        def forward(self, batch):
            losses = super().forward(batch)
            return losses if batch[0].sum() > 0 else {"loss_square": losses["loss_square"]}

    model = Sometimes()
    positive, negative = make_batches(1)[0], make_batches(1, seed=1)[0]
    positive, negative = (positive[0].abs(), positive[1]), (-negative[0].abs(), negative[1])
    with torch.no_grad():
        first, second = model(positive), model(negative)
    metrics = run(make_trainer(model, [positive, negative], accumulate_steps=2))
    assert metrics["loss_abs"] == pytest.approx(float(first["loss_abs"]) / 2, rel=1e-5)
    expected = float(first["loss_square"] + second["loss_square"]) / 2
    assert metrics["loss_square"] == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run(model):
    x, y = make_batches(1)[0]
    with pytest.raises(FloatingPointError, match="loss_square"):
        run(make_trainer(model, [(x, y / 0)]))


# --------------------------------------------------------------------------------- mixed precision


def test_bfloat16_on_the_cpu_is_used_and_stays_close(model):
    exact, batches = copy.deepcopy(model), make_batches(6, size=32)
    start = weights(model)
    run(make_trainer(exact, batches, accumulate_steps=2), steps=20)
    run(make_trainer(model, batches, accumulate_steps=2, amp_dtype=torch.bfloat16), steps=20)
    assert model.dtypes == {torch.bfloat16} and exact.dtypes == {torch.float32}
    assert all(p.dtype == torch.float32 for p in model.parameters()), "master weights stay in float32"
    moved, apart = (weights(exact) - start).norm(), (weights(exact) - weights(model)).norm()
    assert 0 < apart < 0.03 * moved  # bfloat16 keeps 8 bits: one part in 256 an operation


def test_float16_scales_the_loss_but_not_the_step(model):
    exact, batches = copy.deepcopy(model), make_batches(2, size=32)
    trainer = make_trainer(model, batches, accumulate_steps=2, amp_dtype=torch.float16)
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    start = weights(model)
    run(make_trainer(exact, batches, accumulate_steps=2))
    metrics = run(trainer)
    assert model.dtypes == {torch.float16}
    moved = (weights(exact) - start).norm()
    assert (weights(exact) - weights(model)).norm() < 0.02 * moved
    assert 0.1 < metrics["total_loss"] < 10, "the logged loss is not the scaled one"


def test_a_step_that_overflows_in_float16_is_not_counted_by_the_teacher():
    torch.manual_seed(0)
    model = SelfTraining(0.9)
    (x, y), *_ = make_batches(1)
    trainer = make_trainer(model, [(x, y + 1e5)], amp_dtype=torch.float16)
    start, scale = weights(model.student), trainer.grad_scaler.get_scale()
    run(trainer)
    model.update_teacher()
    assert trainer.grad_scaler.get_scale() < scale, "the gradient overflowed, or this test proves nothing"
    assert torch.equal(weights(model.student), start)
    assert model.steps == 0


# ------------------------------------------------------------------------------------------ states


@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16, torch.float16])
def test_state_dict_round_trip_continues_as_if_uninterrupted(model, amp_dtype):
    straight, batches = copy.deepcopy(model), make_batches(1)
    run(make_trainer(straight, batches, momentum=0.9, amp_dtype=amp_dtype), steps=4)

    first = make_trainer(model, batches, momentum=0.9, amp_dtype=amp_dtype)
    run(first, steps=2)
    second = make_trainer(model, batches, momentum=0.9, amp_dtype=amp_dtype)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, steps=2)
    assert torch.allclose(weights(model), weights(straight), rtol=0, atol=1e-7)
    assert second.grad_scaler.state_dict() == first.grad_scaler.state_dict() or amp_dtype is torch.float16


def test_the_loss_scale_is_kept(model):
    first = make_trainer(model, make_batches(1), amp_dtype=torch.float16)
    first.grad_scaler.load_state_dict({**first.grad_scaler.state_dict(), "scale": 512.0})
    second = make_trainer(model, make_batches(1), amp_dtype=torch.float16)
    second.load_state_dict(first.state_dict())
    assert second.grad_scaler.get_scale() == 512.0


@pytest.mark.parametrize(
    "before, after", [(None, torch.float16), (torch.float16, None), (torch.bfloat16, torch.float16)]
)
def test_precision_may_change_when_a_run_is_resumed(model, before, after):
    state = make_trainer(model, make_batches(1), amp_dtype=before).state_dict()
    trainer = make_trainer(model, make_batches(1), amp_dtype=after)
    trainer.load_state_dict(state)
    run(trainer)
