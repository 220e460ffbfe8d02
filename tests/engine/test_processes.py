"""Batch sizes and schedules for a number of processes, and clipping where a parameter has no gradient."""

import pytest
import torch
from detectron2.solver import build_optimizer
from torch import nn

from helpers.models import tiny_cfg
from mic_det.engine.gradient_clipping import build_with_clipping
from mic_det.engine.scaling import scale_to_world_size
from mic_det.errors import ConfigError

pytestmark = pytest.mark.slow


def solver(target=("t",), labelled=(), **keys):
    sets = dict(DATASETS__TRAIN=("s",), DATASETS__TARGET=target, DATASETS__TARGET_LABELLED=labelled)
    cfg = tiny_cfg(**sets, **{f"SOLVER__{k}": v for k, v in keys.items()})
    cfg.freeze()
    return cfg


def test_a_config_made_for_two_processes_on_six():
    cfg = solver(
        REFERENCE_WORLD_SIZE=2, IMS_PER_BATCH=4, IMS_PER_BATCH_TARGET=6, BASE_LR=0.01, MAX_ITER=900, STEPS=(600,)
    )
    cfg.defrost()
    cfg.MODEL.MIC.BURN_IN_STEPS, cfg.MODEL.MIC.CONSISTENCY.RAMP_UP_STEPS = 90, 30
    cfg.MODEL.MIC.ALIGNMENT.RAMP_STEPS = 1
    cfg.freeze()
    scaled = scale_to_world_size(cfg, 6)
    assert (scaled.SOLVER.IMS_PER_BATCH, scaled.SOLVER.IMS_PER_BATCH_TARGET) == (12, 18)
    assert scaled.SOLVER.BASE_LR == pytest.approx(0.03)
    assert (scaled.SOLVER.MAX_ITER, scaled.SOLVER.STEPS) == (300, (200,))
    mic = scaled.MODEL.MIC
    assert (mic.BURN_IN_STEPS, mic.CONSISTENCY.RAMP_UP_STEPS, mic.ALIGNMENT.RAMP_STEPS) == (30, 10, 1)
    assert scaled.is_frozen() and cfg.SOLVER.IMS_PER_BATCH_TARGET == 6
    # fewer processes than it was made for; as many; and scaled once is enough
    assert scale_to_world_size(cfg, 1).SOLVER.IMS_PER_BATCH_TARGET == 3
    assert scale_to_world_size(cfg, 2) == cfg and scale_to_world_size(scaled, 6) == scaled


def test_source_images_do_not_count_where_there_are_none():
    cfg = solver(REFERENCE_WORLD_SIZE=2, IMS_PER_BATCH=3, IMS_PER_BATCH_TARGET=4, IMS_PER_BATCH_TARGET_LABELLED=2)
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TARGET_LABELLED = (), ("l",)
    cfg.freeze()
    scaled = scale_to_world_size(cfg, 4).SOLVER
    assert (scaled.IMS_PER_BATCH_TARGET, scaled.IMS_PER_BATCH_TARGET_LABELLED) == (8, 4)
    with pytest.raises(ConfigError, match="IMS_PER_BATCH_TARGET_LABELLED is 1.*3 processes"):
        scale_to_world_size(solver(labelled=("l",), IMS_PER_BATCH=3, IMS_PER_BATCH_TARGET=3), 3)


def test_without_a_reference_nothing_changes():
    cfg = solver(IMS_PER_BATCH=4, IMS_PER_BATCH_TARGET=2)
    assert scale_to_world_size(cfg, 2) == cfg


@pytest.mark.parametrize(
    "keys, processes, parts",
    [
        (dict(IMS_PER_BATCH=3), 2, ["SOLVER.IMS_PER_BATCH is 3", "2 processes"]),
        (dict(IMS_PER_BATCH=6, IMS_PER_BATCH_TARGET=4), 3, ["SOLVER.IMS_PER_BATCH_TARGET is 4", "3 processes"]),
        (dict(IMS_PER_BATCH=4, IMS_PER_BATCH_TARGET=1, REFERENCE_WORLD_SIZE=2), 4,
         ["SOLVER.IMS_PER_BATCH_TARGET is 1", "REFERENCE_WORLD_SIZE 2"]),
        (dict(IMS_PER_BATCH=3, REFERENCE_WORLD_SIZE=2), 4, ["SOLVER.IMS_PER_BATCH is 3", "REFERENCE_WORLD_SIZE 2"]),
    ],
)  # fmt: skip
def test_a_batch_that_cannot_be_divided_is_refused(keys, processes, parts):
    with pytest.raises(ConfigError) as caught:
        scale_to_world_size(solver(**keys), processes)
    assert all(p in str(caught.value) for p in parts), caught.value


def test_the_targets_batch_does_not_matter_without_a_target():
    assert scale_to_world_size(solver(target=(), IMS_PER_BATCH=4, IMS_PER_BATCH_TARGET=1), 4).SOLVER.IMS_PER_BATCH == 4


@pytest.mark.parametrize("gradients", [True, False])
def test_values_are_clipped_where_parameters_have_no_gradient(gradients):
    model = nn.ModuleDict({"used": nn.Linear(3, 1, bias=False), "unused": nn.Linear(3, 1, bias=False)})
    cfg = solver(BASE_LR=1.0, WEIGHT_DECAY=0.0, MOMENTUM=0.0)
    cfg.defrost()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = True, 0.5
    optimizer = build_with_clipping(build_optimizer, cfg, model)
    start = model["used"].weight.detach().clone()
    if gradients:
        model["used"](torch.tensor([[0.2, -3.0, 7.0]])).sum().backward()
    optimizer.step()
    moved = start - model["used"].weight.detach()
    assert torch.allclose(moved, torch.tensor([[0.2, -0.5, 0.5]]) * gradients)
