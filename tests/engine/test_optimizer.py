"""SOLVER.FUSED: the weights of Detectron2's optimizer, whatever gets a gradient when."""

import copy

import pytest
import torch
from detectron2.solver import build_optimizer
from detectron2.utils.env import TORCH_VERSION
from torch import nn

from helpers.models import tiny_cfg
from mic_det.engine.optimizer import build_fused_optimizer

pytestmark = pytest.mark.skipif(TORCH_VERSION < (2, 4), reason="this PyTorch has no fused SGD for CPUs")


class Net(nn.Module):
    """A layer with normalisation, and one that gets a gradient in some steps alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.late = nn.Linear(40, 30), nn.GroupNorm(3, 30), nn.Linear(30, 20)

    def losses(self, step):
        x = self.norm(self.body(torch.randn(8, 40, generator=torch.Generator().manual_seed(step))))
        return x.square().mean() + (self.late(x).abs().mean() if step > 2 else 0)


def train(model, optimizer, steps=8, scaler=None):
    for step in range(steps):
        optimizer.zero_grad()
        if scaler is None:
            model.losses(step).backward()
            optimizer.step()
        else:
            scaler.scale(model.losses(step) * (1e38 if step == 1 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def config(**keys):
    return tiny_cfg(SOLVER__BASE_LR=0.05, SOLVER__WEIGHT_DECAY=0.01, SOLVER__WEIGHT_DECAY_NORM=0.0, **keys)


@pytest.mark.parametrize(
    "keys", [{}, {"SOLVER__NESTEROV": True}, {"SOLVER__MOMENTUM": 0.0},
             {"SOLVER__CLIP_GRADIENTS__ENABLED": True, "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "norm"}]
)  # fmt: skip
def test_the_weights_are_those_of_detectron2s_optimizer(keys):
    cfg = config(**keys)
    plain, ours = Net(), Net()
    start = torch.cat([p.detach().flatten() for p in plain.parameters()])
    optimizer = build_fused_optimizer(cfg, ours)
    assert all(group["fused"] for group in optimizer.param_groups)
    expected, found = train(plain, build_optimizer(cfg, plain)), train(ours, optimizer)
    assert (expected - start).norm() > 0.1
    assert (found - expected).abs().max() < 1e-6


def test_off_is_detectron2s_own():
    optimizer = build_fused_optimizer(config(SOLVER__FUSED=False), Net())
    assert not any(group["fused"] for group in optimizer.param_groups)


@pytest.mark.parametrize("first, second", [(True, False), (False, True), (True, True)])
def test_states_go_from_one_to_the_other(first, second):
    straight = train((model := Net()), build_fused_optimizer(config(), model))
    model = Net()
    optimizer = build_fused_optimizer(config(SOLVER__FUSED=first), model)
    train(model, optimizer, steps=2)  # the late layer has no momentum yet
    state = copy.deepcopy(optimizer.state_dict())
    optimizer = build_fused_optimizer(config(SOLVER__FUSED=second), model)
    optimizer.load_state_dict(state)
    assert all(group["fused"] == second for group in optimizer.param_groups)
    losses = model.losses
    model.losses = lambda step: losses(step + 2)
    assert (train(model, optimizer, steps=6) - straight).abs().max() < 1e-6


def test_a_step_that_float16s_scaler_skips_is_not_told():
    model = Net()
    optimizer = build_fused_optimizer(config(), model)
    told = []
    optimizer.register_step_post_hook(lambda *_: told.append(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    weights = train(model, optimizer, steps=4, scaler=scaler)
    assert scaler.get_scale() == 512 and weights.isfinite().all()
    assert len(told) == 3
