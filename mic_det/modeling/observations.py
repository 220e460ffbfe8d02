"""The memory of a task: what it observes in a step takes effect after the optimizer's step."""

import torch
from detectron2.utils import comm
from torch import nn


class Observations(nn.Module):
    """Base of modules that follow a training by sums over its batches. Their buffers are in the state dict.

    All processes have the same buffers, because what they observe is summed. Observations take effect at :meth:`step`,
    after the optimizer's step. So a failed step changes nothing. Several batches of one step are one observation.
    """

    def __init__(self):
        super().__init__()
        self._observed = None  # sums since the last step

    def add(self, sums):
        """Add a tensor of sums of one batch. All processes of a training must call it together."""
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(sums)
        self._observed = sums if self._observed is None else self._observed + sums

    @torch.no_grad()
    def step(self):
        """Update with the observations since the last step, if there are any."""
        observed, self._observed = self._observed, None
        if observed is not None:
            self.update(observed)

    @torch.no_grad()
    def reset(self):
        """Forget all observations."""
        for buffer in self.buffers():
            buffer.zero_()
        self._observed = None

    def update(self, observed):
        """Change the buffers by the sums of one step."""
        raise NotImplementedError
