"""One optimizer step over several micro-batches, with or without mixed precision."""

import contextlib
import time

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from ..checkpoint.trainer_state import fitting_optimizer_state, parameter_names
from ..utils.signals import PATIENCE, interruptible
from ..utils.step_timer import record
from .non_finite import (
    CatchNonFinite,
    NonFiniteHandler,
    poison_if_nonfinite,
    unwrapped,
)


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with gradient accumulation and automatic mixed precision.

    The gradient of a step is the mean over its micro-batches. Processes exchange gradients at the
    last micro-batch alone. float16 scales the loss (``torch.amp.GradScaler``); bfloat16 does not
    need to, and also works on CPUs. Losses and gradients that are not finite never reach the optimizer.
    """

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        *,
        accumulate_steps=1,
        amp_dtype=None,
        finite=None,
        sequential_backward=False,
    ):
        """
        Args:
            model (nn.Module): a DistributedDataParallel has a :class:`CatchNonFinite` inside.
            accumulate_steps (int): micro-batches a step.
            amp_dtype (torch.dtype): autocast's; None trains in float32.
            finite (NonFiniteHandler): what is done where numbers are not finite; None raises.
            sequential_backward (bool): backpropagate each part of the model's ``losses_in_parts`` at once, which
                takes less memory than one pass over all, and more time.
        """
        super().__init__(model, data_loader, optimizer)
        distributed = isinstance(model, DistributedDataParallel)
        self.guard = model.module if distributed else CatchNonFinite(model)
        self._pass = model if distributed else self.guard
        self.finite = finite or NonFiniteHandler()
        self.accumulate_steps = accumulate_steps
        self.amp_dtype = amp_dtype
        self.sequential_backward = sequential_backward
        self.usual_wait = None  # seconds
        self.device_type = next(model.parameters()).device.type
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=amp_dtype is torch.float16)
        self.restarted = []  # parameters whose momentum was not in the checkpoint that the run was resumed from

    def run_step(self):
        """See :meth:`SimpleTrainer.run_step`; logs the mean of each loss over the micro-batches.

        Raises:
            NonFiniteError: on all processes, where a loss or gradient of one is not finite.
        """
        assert self.model.training, "the model was changed to eval mode"
        self.optimizer.zero_grad()
        data_time, totals, seen = 0.0, {}, []
        for i in range(self.accumulate_steps):
            start = time.perf_counter()
            with record("data wait"), interruptible(max(PATIENCE, 2 * (self.usual_wait or 0))):
                data = next(self._data_loader_iter)
            data_time += self._waited(time.perf_counter() - start)
            with self._exchange_gradients(last=i == self.accumulate_steps - 1):
                losses = self._backward(data)
            seen.append((data, losses))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value
        if self.sequential_backward:
            self._average_gradients()
        self.after_backward()
        totals, finite = self.finite.read(totals, self.optimizer)
        if finite:
            self.finite.passed()
        elif self.finite.failed(self.iter, self.model, seen, self.guard.reason, self.grad_scaler) == "skip":
            return
        self._write_metrics(totals, data_time)
        with record("optimizer"):
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def _waited(self, seconds):
        """Note a wait for data: where they usually take long, a signal must not end a step that would end in order."""
        first = self.usual_wait is None  # workers are started in it
        self.usual_wait = 0.0 if first else max(seconds, 0.9 * self.usual_wait)
        return seconds

    def _backward(self, data):
        """Backpropagate one micro-batch; returns its detached losses, each divided by their number."""
        totals = {}
        for losses in self._losses(data):
            with record("backward"):
                self.grad_scaler.scale(poison_if_nonfinite(losses)).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach()
        return totals

    def _losses(self, data):
        """Losses of one micro-batch, divided by their number, one dict for each backward pass."""
        if self.sequential_backward:
            parts = self.guard.losses_in_parts(data)
        else:
            parts = map(self._pass, [data])
        while True:
            # on for each part alone: backward passes are no place for autocast
            with torch.autocast(self.device_type, self.amp_dtype, enabled=self.amp_dtype is not None):
                losses = next(parts, None)
                if losses is None:
                    return
                losses = {k: v / self.accumulate_steps for k, v in losses.items()}
            yield losses

    def _exchange_gradients(self, last):
        if last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _average_gradients(self):
        """Mean over processes: DistributedDataParallel takes part in its own forward alone, not in parts of it."""
        if comm.get_world_size() > 1:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            for work in [torch.distributed.all_reduce(g, async_op=True) for g in gradients]:
                work.wait()
            torch._foreach_div_(gradients, comm.get_world_size())

    def state_dict(self):
        names = parameter_names(unwrapped(self.model), self.optimizer)
        scaler, finite = self.grad_scaler.state_dict(), self.finite.state_dict()
        return {**super().state_dict(), "optimizer_names": names, "grad_scaler": scaler, "finite": finite}

    def load_state_dict(self, state_dict):
        """Of the optimizer's state, what fits the parameters by name and shape; ``restarted`` names the others."""
        names = parameter_names(unwrapped(self.model), self.optimizer)
        optimizer, self.restarted = fitting_optimizer_state(
            state_dict["optimizer"], state_dict.get("optimizer_names"), self.optimizer, names
        )
        super().load_state_dict({**state_dict, "optimizer": optimizer})
        scaler = state_dict.get("grad_scaler")
        if scaler and self.grad_scaler.is_enabled():  # empty where the run was not in float16 so far
            taken = {k: scaler[k] for k in ("scale", "_growth_tracker")}
            self.grad_scaler.load_state_dict({**self.grad_scaler.state_dict(), **taken})
        if "finite" in state_dict:  # not in checkpoints of earlier versions
            self.finite.load_state_dict(state_dict["finite"])
