"""AdamW with a faster head and no decay of norms, and the polynomial schedule, against their formulas."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from helpers.models import tiny_cfg
from mic_det.checkpoint.trainer_state import fitting_optimizer_state, parameter_names
from mic_det.config import validate_mic_config
from mic_det.engine.optimizer import build_fused_optimizer, build_schedule
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import ConfigError

ADAMW = {"SOLVER__OPTIMIZER": "AdamW", "SOLVER__BASE_LR": 0.01, "SOLVER__WEIGHT_DECAY": 0.1,
         "SOLVER__WEIGHT_DECAY_NORM": 0.0, "SOLVER__HEAD_LR_FACTOR": 10.0}  # fmt: skip
POLY = {"SOLVER__LR_SCHEDULER_NAME": "WarmupPolyLR", "SOLVER__MAX_ITER": 40, "SOLVER__WARMUP_ITERS": 8,
        "SOLVER__WARMUP_FACTOR": 1e-6}  # fmt: skip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))
        self.head = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))

    def loss(self, step):
        x = torch.randn(7, 6, generator=torch.Generator().manual_seed(step))
        return (self.head(self.backbone(x)) - 1).pow(3).mean().abs()


def options(optimizer, model):
    """(lr, weight decay) by name of parameter."""
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


def test_rates_and_decay_of_each_parameter():
    cfg, model = tiny_cfg(**ADAMW), Net()
    assert options(MICTrainer.build_optimizer(cfg, model), model) == {
        "backbone.0.weight": (0.01, 0.1), "backbone.0.bias": (0.01, 0.1),
        "backbone.1.weight": (0.01, 0.0), "backbone.1.bias": (0.01, 0.0),
        "head.0.weight": (0.1, 0.1), "head.0.bias": (0.1, 0.1),
        "head.1.weight": (0.1, 0.0), "head.1.bias": (0.1, 0.0),
    }  # fmt: skip


def test_of_mic_the_students_heads_are_faster_and_the_teacher_is_not_trained():
    cfg = tiny_cfg(**ADAMW)
    model = build_model(cfg)
    found = options(MICTrainer.build_optimizer(cfg, model), model)
    assert found["student.roi_heads.box_predictor.cls_score.weight"][0] == 0.1
    assert found["student.backbone.bottom_up.res3.0.conv1.weight"][0] == 0.01
    assert found["student.backbone.fpn_lateral2.weight"][0] == 0.01
    assert all(k.startswith("student.") for k in found)


@pytest.mark.parametrize("fused", [True, False])
def test_steps_are_those_of_the_formula(fused):
    """Decoupled decay, bias-corrected averages and the schedule, written out in float64."""
    cfg = tiny_cfg(**ADAMW, **POLY, SOLVER__FUSED=fused, SOLVER__BETAS=(0.8, 0.9))
    model, reference = Net(), Net().double()
    optimizer = build_fused_optimizer(cfg, model)
    schedule = build_schedule(cfg, optimizer)
    assert all(g["fused"] == fused for g in optimizer.param_groups)
    averages = {n: [torch.zeros_like(p), torch.zeros_like(p)] for n, p in reference.named_parameters()}
    for t in range(1, 13):
        optimizer.zero_grad()
        model.loss(t).backward()
        optimizer.step()
        schedule.step()
        reference.zero_grad()
        x = torch.randn(7, 6, generator=torch.Generator().manual_seed(t)).double()
        (reference.head(reference.backbone(x)) - 1).pow(3).mean().abs().backward()
        step = t - 1
        share = (1e-6 + (0.8 - 1e-6) * step / 8) if step < 8 else 1 - step / 40
        with torch.no_grad():
            for name, p in reference.named_parameters():
                rate = 0.01 * share * (10 if name.startswith("head") else 1)
                m, v = averages[name]
                m.mul_(0.8).add_(0.2 * p.grad)
                v.mul_(0.9).add_(0.1 * p.grad**2)
                p -= rate * (0.0 if ".1." in name else 0.1) * p
                p -= rate * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
    for (name, p), q in zip(model.named_parameters(), reference.parameters()):
        torch.testing.assert_close(p.double(), q, rtol=1e-4, atol=1e-5, msg=name)
    start = torch.cat([p.flatten() for p in Net().parameters()])
    assert (torch.cat([p.flatten() for p in model.parameters()]) - start).norm() > 0.1


def test_the_schedule_of_daformer():
    """Linear from 1e-6 over the warm-up, then linear to 0 at the last step; with power 2 the square of it."""
    rates = {}
    for power in (1.0, 2.0):
        cfg = tiny_cfg(**{**ADAMW, **POLY}, SOLVER__POLY_LR_POWER=power)
        optimizer = build_fused_optimizer(cfg, Net())
        schedule = build_schedule(cfg, optimizer)
        rates[power] = []
        for _ in range(40):
            rates[power].append(min(g["lr"] for g in optimizer.param_groups) / 0.01)
            assert max(g["lr"] for g in optimizer.param_groups) == pytest.approx(0.1 * rates[power][-1])
            optimizer.step()
            schedule.step()
    assert rates[1.0][0] == pytest.approx(1e-6) and rates[1.0][4] == pytest.approx(0.4, abs=1e-5)
    assert rates[1.0][8:] == pytest.approx([1 - t / 40 for t in range(8, 40)])
    assert rates[2.0][8:] == pytest.approx([(1 - t / 40) ** 2 for t in range(8, 40)])


@pytest.mark.parametrize("first, second", [("SGD", "AdamW"), ("AdamW", "SGD")])
def test_the_state_of_the_other_optimizer_starts_anew(first, second):
    model = Net()
    before = build_fused_optimizer(tiny_cfg(**{**ADAMW, "SOLVER__OPTIMIZER": first}), model)
    model.loss(0).backward()
    before.step()
    now = build_fused_optimizer(tiny_cfg(**{**ADAMW, "SOLVER__OPTIMIZER": second}), model)
    names = parameter_names(model, now)
    state, anew = fitting_optimizer_state(before.state_dict(), parameter_names(model, before), now, names)
    assert sorted(anew) == sorted(names)
    now.load_state_dict(state)
    now.step()


def test_sgd_takes_the_factor_too():
    cfg, model = tiny_cfg(**{**ADAMW, "SOLVER__OPTIMIZER": "SGD"}), Net()
    optimizer = build_fused_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.param_groups[0]["momentum"] == 0.9
    assert options(optimizer, model)["head.0.weight"] == (0.1, 0.1)


def test_two_factors_of_biases_are_refused():
    with pytest.raises(ConfigError, match="SOLVER.HEAD_LR_FACTOR is 10.0 and SOLVER.BIAS_LR_FACTOR 2.0"):
        validate_mic_config(tiny_cfg(**ADAMW, SOLVER__BIAS_LR_FACTOR=2.0))
