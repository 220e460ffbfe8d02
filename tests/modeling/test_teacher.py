"""The average alone, then inside MIC: one update for each optimizer step, whatever happens between."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from helpers.models import ALL_BOXES, source_input, target_input, tiny_cfg
from mic_det.modeling.teacher import ema_alpha, ema_update


def small_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2))


def test_closed_form_after_n_steps():
    for alpha in (0.0, 0.5, 0.9, 0.999):
        student, teacher = small_net(), small_net()
        history = []
        for t in range(12):
            with torch.no_grad():
                for p in student.parameters():
                    p.normal_()
            history.append(student[0].weight.detach().double().clone())
            ema_update(teacher, student, ema_alpha(t, alpha))
        # phi_n = sum_i theta_i (1 - a_i) prod_{j > i} a_j
        expected, remaining = 0, 1.0
        for t in reversed(range(12)):
            a = min(1 - 1 / (t + 1), alpha)
            expected = expected + history[t] * (1 - a) * remaining
            remaining *= a
        assert remaining == 0  # a_0 = 0: the start does not depend on the teacher's own weights
        torch.testing.assert_close(teacher[0].weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_warm_up_is_the_plain_mean_until_alpha():
    assert [ema_alpha(t, 0.9) for t in (0, 1, 3, 9, 1000)] == [0, 0.5, 0.75, 0.9, 0.9]


def test_buffers_floats_averaged_integers_copied_and_equal_layers_unchanged():
    student, teacher = small_net(), small_net()
    teacher[2].load_state_dict(student[2].state_dict())
    student[1].running_mean.fill_(1.0)
    student[1].num_batches_tracked.fill_(7)
    frozen = teacher[2].weight.detach().clone()
    for _ in range(50):
        ema_update(teacher, student, 0.7)
    assert torch.equal(teacher[2].weight, frozen)
    teacher[1].running_mean.zero_()
    ema_update(teacher, student, 0.75)
    torch.testing.assert_close(teacher[1].running_mean, torch.full((4,), 0.25))
    assert teacher[1].num_batches_tracked == 7


def test_different_architectures_and_bad_alpha_are_refused():
    with pytest.raises(ValueError, match="differ in architecture"):
        ema_update(small_net(), nn.Sequential(nn.Conv2d(3, 4, 3)), 0.5)
    with pytest.raises(ValueError, match="0.weight"):
        ema_update(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(3, 2)), 0.5)
    with pytest.raises(ValueError, match="alpha"):
        ema_update(small_net(), small_net(), 1.5)


def weights(model):
    return {k: v.detach().double().clone() for k, v in model.named_parameters()}


def expected_teacher(students, alpha, burn_in=0):
    """The average of a list of students' weights: the first is the start, then one for each step."""
    mean = students[0]
    for n, theta in enumerate(students[1:], start=1):
        t = max(0, n - burn_in)
        a = min(1 - 1 / (t + 1), alpha)
        mean = {k: a * mean[k] + (1 - a) * theta[k] for k in mean}
    return mean


def assert_weights(model, expected):
    for k, v in model.named_parameters():
        torch.testing.assert_close(v.double(), expected[k], rtol=1e-4, atol=1e-6)


def batch():
    return [source_input(), target_input()]


def train(model, optimizer, steps, micro_batches=1, autocast=False, students=None, between=None):
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(micro_batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = sum(model(batch()).values()) / micro_batches
            loss.backward()
        optimizer.step()
        if students is not None:
            students.append(weights(model.student))
        if between:
            between(model)
            model.train()


def optimizer_of(model, kind, **kwargs):
    return kind([p for p in model.parameters() if p.requires_grad], lr=1e-3, **kwargs)


@pytest.mark.parametrize("kind, kwargs", [(torch.optim.SGD, {"foreach": True, "momentum": 0.9}),
                                          (torch.optim.SGD, {"foreach": False}), (torch.optim.AdamW, {"foreach": True}),
                                          (torch.optim.AdamW, {"fused": True})])  # fmt: skip
def test_one_update_a_step_for_any_optimizer(kind, kwargs):
    model = build_model(tiny_cfg(MODEL__MIC__TEACHER__ALPHA=0.8, **ALL_BOXES))
    students = [weights(model.student)]
    train(model, optimizer_of(model, kind, **kwargs), 4, students=students)
    model.eval()(batch()[1:])
    assert model.steps == 4
    assert_weights(model.teacher, expected_teacher(students, 0.8))


def test_accumulation_and_mixed_precision_give_one_update_a_step():
    model = build_model(tiny_cfg(MODEL__MIC__TEACHER__ALPHA=0.7, **ALL_BOXES))
    students = [weights(model.student)]
    train(model, optimizer_of(model, torch.optim.SGD), 3, micro_batches=2, autocast=True, students=students)
    assert all(v.isfinite().all() for v in students[-1].values())
    model.state_dict()
    assert model.steps == 3
    assert_weights(model.teacher, expected_teacher(students, 0.7))


def test_evaluation_and_checkpoints_between_steps_change_nothing():
    runs = []
    for between in (None, lambda m: (m.state_dict(), m.eval()(batch()[1:]), m.state_dict())):
        torch.manual_seed(0)
        model = build_model(tiny_cfg(**ALL_BOXES))
        train(model, optimizer_of(model, torch.optim.SGD), 3, between=between)
        runs.append(model.state_dict())
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])
    assert runs[0]["num_steps"] == 3


def test_a_skipped_optimizer_step_does_not_move_the_teacher():
    model = build_model(tiny_cfg(**ALL_BOXES)).train()
    model(batch())
    before = weights(model.teacher)
    model(batch())  # as when float16's scaler skips a step
    other = nn.Linear(2, 2)
    other(torch.ones(2)).sum().backward()
    torch.optim.SGD(other.parameters(), lr=1.0).step()  # somebody else's optimizer
    model(batch())
    assert model.steps == 0
    assert_weights(model.teacher, before)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_that_the_scaler_skipped_inside_a_fused_kernel_does_not_move_the_teacher(kind):
    """A fused optimizer's ``step`` is called either way: its kernel leaves the weights alone after an overflow."""
    model = build_model(tiny_cfg(MODEL__MIC__TEACHER__ALPHA=0.5, **ALL_BOXES)).train()
    optimizer = optimizer_of(model, kind, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    students = [weights(model.student)]
    for overflow in (False, True, True, False):
        optimizer.zero_grad()
        scaler.scale(sum(model(batch()).values())).backward()
        if overflow:
            next(p for p in model.student.parameters() if p.grad is not None).grad[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        if overflow:
            assert all(torch.equal(v, students[-1][k]) for k, v in weights(model.student).items())
        else:
            students.append(weights(model.student))
    model.state_dict()
    assert model.steps == 2
    assert_weights(model.teacher, expected_teacher(students, 0.5))


def test_a_copy_made_during_training_keeps_its_own_teacher():
    model = build_model(tiny_cfg(MODEL__MIC__TEACHER__ALPHA=0.5, **ALL_BOXES))
    train(model, optimizer_of(model, torch.optim.SGD), 1)
    twin = copy.deepcopy(model)
    train(twin, optimizer_of(twin, torch.optim.SGD), 2)
    twin.state_dict(), model.state_dict()
    assert (model.steps, twin.steps) == (1, 3)


def test_burn_in_copies_the_student_and_leaves_the_target_out(storage):
    model = build_model(tiny_cfg(MODEL__MIC__BURN_IN_STEPS=2, MODEL__MIC__TEACHER__ALPHA=0.9, **ALL_BOXES))
    students = [weights(model.student)]
    optimizer = optimizer_of(model, torch.optim.SGD)
    train(model, optimizer, 2, students=students)
    assert not any(k.startswith(("masked", "pseudo")) for k in storage.latest())
    model.state_dict()
    assert_weights(model.teacher, students[-1])
    train(model, optimizer, 3, students=students)
    assert "pseudo/num_boxes" in storage.latest()
    model.state_dict()
    assert_weights(model.teacher, expected_teacher(students, 0.9, burn_in=2))


def test_the_average_can_begin_with_burn_in(storage):
    """Strong start and MIC in one run: while L_M is left out, the teacher is the average of all steps."""
    keys = {"MODEL__MIC__BURN_IN_STEPS": 3, "MODEL__MIC__TEACHER__EMA_IN_BURN_IN": True}
    model = build_model(tiny_cfg(MODEL__MIC__TEACHER__ALPHA=0.9, **keys, **ALL_BOXES))
    students = [weights(model.student)]
    optimizer = optimizer_of(model, torch.optim.SGD)
    train(model, optimizer, 3, students=students)
    assert not any(k.startswith(("masked", "pseudo")) for k in storage.latest())
    model.state_dict()
    assert_weights(model.teacher, expected_teacher(students, 0.9))
    train(model, optimizer, 2, students=students)
    assert "pseudo/num_boxes" in storage.latest()
    model.state_dict()
    assert_weights(model.teacher, expected_teacher(students, 0.9))


def test_ten_steps_equal_five_saved_loaded_and_five_more():
    def make():
        torch.manual_seed(0)
        model = build_model(tiny_cfg(MODEL__MIC__TEACHER__ALPHA=0.9, **ALL_BOXES))
        return model, optimizer_of(model, torch.optim.SGD, momentum=0.9)

    straight, optimizer = make()
    train(straight, optimizer, 5)
    saved = copy.deepcopy((straight.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
    train(straight, optimizer, 5)
    resumed, optimizer = make()
    with torch.no_grad():  # whatever was there before loading must not matter
        for p in resumed.parameters():
            p.add_(1)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    train(resumed, optimizer, 5)
    a, b = straight.state_dict(), resumed.state_dict()
    assert a["num_steps"] == b["num_steps"] == 10
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_teacher_never_trains_nor_learns_statistics():
    cfg = tiny_cfg(MODEL__RESNETS__NORM="BN", MODEL__FPN__NORM="BN", **ALL_BOXES)
    model = build_model(cfg).train()
    assert not any(m.training for m in model.teacher.modules())
    assert all(m.training for m in model.student.modules())
    loss = sum(model([source_input(), source_input(2), target_input(), target_input(3)]).values())
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    means = [(t.running_mean, s.running_mean) for t, s in zip(model.teacher.modules(), model.student.modules())
             if isinstance(t, nn.BatchNorm2d)]  # fmt: skip
    assert means
    for teacher, student in means:
        assert torch.equal(teacher, torch.zeros_like(teacher))  # as at the start
        assert not torch.equal(student, torch.zeros_like(student))


def test_a_plain_detectors_weights_go_to_both():
    model = build_model(tiny_cfg())
    plain = build_model(tiny_cfg(MODEL__META_ARCHITECTURE="GeneralizedRCNN"))
    model.load_state_dict(plain.state_dict())
    for part in (model.student, model.teacher):
        assert all(torch.equal(v, plain.state_dict()[k]) for k, v in part.state_dict().items())
    plain.eval(), model.eval()
    a, b = (m([target_input()])[0]["instances"] for m in (plain, model))
    assert len(a) and torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor) and torch.equal(a.scores, b.scores)


def test_evaluation_runs_the_model_that_the_config_names():
    for name in ("teacher", "student"):
        model = build_model(tiny_cfg(MODEL__MIC__EVALUATE=name)).eval()
        with torch.no_grad():
            model.student.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([5.0, 0, 0, 0]))
            model.teacher.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([0, 5.0, 0, 0]))
        classes = model([target_input()])[0]["instances"].pred_classes
        assert len(classes) and (classes == (1 if name == "teacher" else 0)).all()
