"""The optimizer and the schedule of the learning rate that a config names."""

import torch
from detectron2.solver import LRMultiplier, WarmupParamScheduler, build_lr_scheduler, build_optimizer
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils.env import TORCH_VERSION
from fvcore.common.param_scheduler import ParamScheduler, PolynomialDecayParamScheduler

from ..modeling.vit import layer_lr_factor


def build_fused_optimizer(cfg, model):
    """The optimizer of ``SOLVER.OPTIMIZER``, with PyTorch's fused kernel where ``SOLVER.FUSED`` asks for it.

    A fused kernel goes once through the weights instead of once for each term. Weights differ from those of the other
    kernel by rounding. State dicts are the same.
    """
    optimizer = _plain_optimizer(cfg, model)
    fused = cfg.SOLVER.FUSED and TORCH_VERSION >= (2, 4)  # earlier ones have no such kernel for CPUs

    def choose_kernel(optimizer):
        # Not by the constructor's argument: then float16's scaler leaves it to the kernel to skip a step, and those
        # who count steps (the teacher) are told of one.
        for options in (optimizer.defaults, *optimizer.param_groups):
            options.update(foreach=not fused, fused=fused)

    choose_kernel(optimizer)
    optimizer.register_load_state_dict_post_hook(choose_kernel)  # a state has its own run's choice in it
    optimizer.register_step_pre_hook(_start_momentum)
    return optimizer


def _plain_optimizer(cfg, model):
    """Detectron2's SGD, or AdamW on Detectron2's groups of parameters; some rates are others where asked for."""
    solver = cfg.SOLVER
    if solver.OPTIMIZER == "SGD" and solver.HEAD_LR_FACTOR == 1.0:
        return build_optimizer(cfg, model)

    def lr_factor(name):
        factor = 1.0 if "backbone" in name.split(".") else solver.HEAD_LR_FACTOR
        return factor * layer_lr_factor(name, solver.LAYER_LR_DECAY, cfg.MODEL.VIT.DEPTH)

    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lr_factor,
        overrides={"pos_embed": {"weight_decay": 0.0}},  # as ViTDet and all pretrainings of ViTs
    )
    if solver.OPTIMIZER == "AdamW":
        optimizer = torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS))
    else:
        optimizer = torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    return maybe_add_gradient_clipping(cfg, optimizer)


def _start_momentum(optimizer, *_):
    """Momentum 0 for parameters that have a first gradient now: the kernel asks that all begin together."""
    for group in optimizer.param_groups:
        if group.get("momentum"):
            for p in group["params"]:
                if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


class InverseDecay(ParamScheduler):
    """(1 + gamma i)^-power at step i of a training."""

    def __init__(self, gamma, power, num_steps):
        self.gamma, self.power, self.num_steps = gamma, power, num_steps

    def __call__(self, where):
        """The factor of the rate; ``where``: share of the steps that are done, in [0, 1)."""
        return (1 + self.gamma * where * self.num_steps) ** -self.power


def build_schedule(cfg, optimizer):
    """Detectron2's schedules, and two more after the warm-up.

    ``WarmupPolyLR``: (1 - step / MAX_ITER) to a power. ``WarmupInverseLR``: see ``SOLVER.INVERSE_LR``.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupPolyLR":
        decay = PolynomialDecayParamScheduler(1.0, solver.POLY_LR_POWER)
    elif solver.LR_SCHEDULER_NAME == "WarmupInverseLR":
        decay = InverseDecay(solver.INVERSE_LR.GAMMA, solver.INVERSE_LR.POWER, solver.MAX_ITER)
    else:
        return build_lr_scheduler(cfg, optimizer)
    multiplier = WarmupParamScheduler(
        decay,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=multiplier, max_iter=solver.MAX_ITER)
