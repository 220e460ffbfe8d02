"""Detectron2's optimizer with PyTorch's fused kernel."""

import torch
from detectron2.solver import build_optimizer
from detectron2.utils.env import TORCH_VERSION


def build_fused_optimizer(cfg, model):
    """``build_optimizer``, which with ``SOLVER.FUSED`` goes once through the weights instead of once for each term.

    Weights differ from those of the other kernel by rounding. State dicts are the same.
    """
    optimizer = build_optimizer(cfg, model)
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


def _start_momentum(optimizer, *_):
    """Momentum 0 for parameters that have a first gradient now: the kernel asks that all begin together."""
    for group in optimizer.param_groups:
        if group["momentum"]:
            for p in group["params"]:
                if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
