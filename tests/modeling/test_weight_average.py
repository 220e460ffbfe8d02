"""The average of all tensors at once: bit for bit that of each alone, also after a module has changed."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from mic_det.modeling.student_teacher import StudentTeacher
from mic_det.modeling.teacher import ema_update


def net():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(2, 2), nn.PReLU()))
    model.register_buffer("scale", torch.ones(3), persistent=False)
    return model


def scramble(model):
    with torch.no_grad():
        for t in [*model.parameters(), *model.buffers()]:
            t.copy_(torch.randn(t.shape) * 3 if t.is_floating_point() else torch.randint(0, 99, t.shape))


def plain_average(teacher, student, alpha):
    """What the teacher must hold afterwards, tensor by tensor."""
    tensors = {**dict(student.named_parameters()), **dict(student.named_buffers())}
    ours = {**dict(teacher.named_parameters()), **dict(teacher.named_buffers())}
    return {
        k: torch.lerp(ours[k].detach(), v.detach(), 1 - alpha) if v.is_floating_point() else v.clone()
        for k, v in tensors.items()
    }


def check_update(teacher, student, alpha=0.7):
    scramble(student)
    scramble(teacher)
    expected = plain_average(teacher, student, alpha)
    ema_update(teacher, student, alpha)
    found = {**dict(teacher.named_parameters()), **dict(teacher.named_buffers())}
    assert found.keys() == expected.keys()
    for k, v in expected.items():
        assert v.dtype == found[k].dtype and torch.equal(found[k], v), k


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 0.9996, 1.0])
def test_bit_for_bit_the_plain_average(alpha):
    teacher, student = net(), net()
    for _ in range(3):
        check_update(teacher, student, alpha)


def replace_parameter(model):
    model[0].weight = nn.Parameter(torch.zeros_like(model[0].weight))


def replace_layer(model):
    model[2][0] = nn.Linear(2, 5)


def add_layer(model):
    model[2].append(nn.Linear(3, 3))


def add_buffer(model):
    model[1].register_buffer("more", torch.zeros(2))


def to_double(model):
    model.double()


def assign_state(model):
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize(
    "change", [replace_parameter, replace_layer, add_layer, add_buffer, to_double, assign_state],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_a_changed_module_is_averaged_as_it_is_then(change):
    teacher, student = net(), net()
    check_update(teacher, student)
    change(student), change(teacher)
    check_update(teacher, student)


def test_a_change_of_one_alone_is_refused_each_time():
    teacher, student = net(), net()
    ema_update(teacher, student, 0.5)
    replace_layer(student)
    for _ in range(2):
        with pytest.raises(ValueError, match="2.0.weight is"):
            ema_update(teacher, student, 0.5)


class Pair(StudentTeacher):
    def __init__(self):
        super().__init__(nn.Linear(3, 1), nn.Linear(3, 1), alpha=0.9)

    def forward(self, x):
        self.begin_step()
        return self.student(x).sum()


def step(model):
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1)
    optimizer.zero_grad()
    model.train()(torch.ones(2, 3)).backward()
    optimizer.step()
    model.update_teacher()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, None], ids=["deepcopy", "saved and loaded whole"])
def test_a_copy_averages_its_own_tensors(duplicate, tmp_path):
    model = Pair()
    step(model), step(model)
    if duplicate is None:
        torch.save(model, tmp_path / "model.pth")
        twin = torch.load(tmp_path / "model.pth", weights_only=False)
    else:
        twin = duplicate(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    step(twin)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    step(model)
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in model.state_dict().items())
    assert not torch.equal(model.teacher.weight, before["teacher.weight"])


def test_a_model_that_is_collected_during_a_step_does_not_break_it():
    model, other = Pair(), Pair()
    other.itself = [other]  # only the garbage collector ends it
    other(torch.ones(1, 3))
    gc.disable()
    handle = register_optimizer_step_post_hook(lambda *_: gc.collect())
    try:
        del other
        step(model)
    finally:
        handle.remove()
        gc.enable()
    assert model.steps == 1
