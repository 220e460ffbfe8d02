"""Statistics of trained BatchNorm layers on several processes."""

import torch
from detectron2.utils import comm
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def average_statistics(model):
    """Give the trained BatchNorm layers of all processes the mean of their statistics; nothing for a single process.

    Each process sees images of its own. Without this, models that are equal in all parameters differ in these.
    """
    if comm.get_world_size() == 1:
        return
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    buffers = [b for m in layers for b in (m.running_mean, m.running_var)]
    if buffers:
        flat = torch.cat([b.flatten() for b in buffers])
        torch.distributed.all_reduce(flat)
        sizes = [b.numel() for b in buffers]
        torch._foreach_copy_(buffers, list((flat / comm.get_world_size()).split(sizes)))
