"""Detectron2's optimizer, with gradient clipping that does not mind parameters without a gradient."""

import torch
from detectron2.solver import build_optimizer as build_detectron2_optimizer


def build_optimizer(cfg, model):
    """As Detectron2's; ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE: value`` clips all gradients that there are in one call.

    Detectron2 calls ``clip_grad_value_`` for each parameter, which newer PyTorch refuses for one without a gradient.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != "value":
        return build_detectron2_optimizer(cfg, model)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = build_detectron2_optimizer(cfg, model)
    limit = clip.CLIP_VALUE

    def clip_values(optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if parameters:
            torch.nn.utils.clip_grad_value_(parameters, limit)

    optimizer.register_step_pre_hook(clip_values)
    return optimizer
