"""Clipping of gradients by value that does not mind parameters without a gradient."""

import torch


def build_with_clipping(build, cfg, model):
    """An optimizer whose ``SOLVER.CLIP_GRADIENTS`` by value clips all the gradients that there are, in one call.

    Detectron2 calls ``clip_grad_value_`` for each parameter, which newer PyTorch refuses for one without a gradient.
    Clipping by norm (of each parameter) is left to Detectron2.

    Args:
        build (callable): (cfg, model) -> Optimizer, such as Detectron2's ``build_optimizer``.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != "value":
        return build(cfg, model)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = build(cfg, model)
    limit = clip.CLIP_VALUE

    def clip_values(optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if parameters:
            torch.nn.utils.clip_grad_value_(parameters, limit)

    optimizer.register_step_pre_hook(clip_values)
    return optimizer
