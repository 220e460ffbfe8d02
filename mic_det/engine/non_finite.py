"""Losses and gradients that are not finite: noticed on all processes at once, kept from the weights, written down.

In a step without them this costs one pass over the gradients, and no wait for the device beyond the one that
tells the losses.
"""

import logging
import math
import os

import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..checkpoint.finite_state import first_nonfinite
from ..checkpoint.storage import NonFiniteState
from ..errors import NonFiniteError
from ..utils.atomic_files import write_whole
from ..utils.plain_containers import to_plain_containers

logger = logging.getLogger(__name__)
FORWARD = "forward pass"  # stands for the losses of a pass that raised


class CatchNonFinite(nn.Module):
    """A model whose training pass answers with a loss of NaN where it raises ``FloatingPointError`` (as an RPN does).

    Other processes would wait forever for the gradients of one that raised; so they get NaN, and all know.
    """

    def __init__(self, model):
        super().__init__()
        self.module = model
        self.reason = ""

    def forward(self, batched_inputs):
        try:
            return self.module(batched_inputs)
        except FloatingPointError as e:
            if not self.module.training:
                raise
            return self._stopped(e)

    def losses_in_parts(self, batched_inputs):
        """The same for a model that gives its losses part by part."""
        try:
            yield from self.module.losses_in_parts(batched_inputs)
        except FloatingPointError as e:
            yield self._stopped(e)

    def _stopped(self, error):
        self.reason = " ".join(str(error).split())
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return {FORWARD: sum(p.sum() for p in trained) * math.nan}


def unwrapped(model):
    """The model itself, without what a trainer put around it."""
    while isinstance(model, (DistributedDataParallel, CatchNonFinite)):
        model = model.module
    return model


def refuse_nonfinite(model):
    """
    Raises:
        NonFiniteError: before an evaluation of weights that are not finite; names the first one.
    """
    broken = first_nonfinite(model.state_dict().items())
    if broken:
        raise NonFiniteError(f"the model is not evaluated: {broken} is NaN or infinite.")


def poison_if_nonfinite(losses):
    """The sum of a pass's losses; where it is not finite, all of its gradients are NaN.

    An infinite loss can have finite gradients. With this, whatever is not finite in one process reaches the
    gradients of all by the exchange that there is anyway. Finite losses are not changed.
    """
    total = sum(losses.values())
    return total * torch.where(total.detach().isfinite(), 1.0, math.nan)


class NonFiniteHandler:
    """Whether a step's losses and gradients are finite, and what is done where they are not.

    Args:
        output_dir (str): batches of such steps are written to ``non_finite`` below it; "" = nowhere.
        skip_steps (int): at most this number of steps of a run is skipped; the next one raises.
        max_overflows (int): at most this number of steps in a row may overflow in float16, whose loss scale is then
                lowered.
    """

    def __init__(self, output_dir="", skip_steps=0, max_overflows=30):
        self.output_dir = output_dir
        self.skip_steps = skip_steps
        self.max_overflows = max_overflows
        self.skipped = 0
        self.overflows = 0

    def read(self, losses, optimizer):
        """One transfer from the device.

        Args:
            losses (dict[str, Tensor]): detached scalars.
            optimizer (Optimizer): whose parameters' gradients are looked at.

        Returns:
            (dict[str, Tensor], bool): the losses on the CPU, and whether no gradient is infinite or NaN (or beyond
            1e19). The latter is the same on all processes, which have the same gradients, and False where
            :func:`poison_if_nonfinite` of any of them met losses that are not finite.
        """
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        values = [v.float() for v in losses.values()]
        if grads:
            # squares overflow from 1e19 on, which no step should be taken by either; on CPUs the greatest
            # absolute value takes twelve times as long
            values.append(torch.stack([x.float() for x in torch._foreach_norm(grads)]).max())
        values = torch.stack(values).cpu()
        return dict(zip(losses, values)), bool(values[-1].isfinite()) if grads else True

    def passed(self):
        """Report that a step was finite."""
        self.overflows = 0

    def failed(self, iteration, model, seen, reason="", scaler=None):
        """What to do about a step whose gradients are not finite. All processes call it together.

        Args:
            iteration (int): of the step.
            model (nn.Module): with the step's gradients.
            seen (list[(list[dict], dict[str, Tensor])]): inputs and losses of each micro-batch.
            reason (str): of a pass that raised.
            scaler (GradScaler): where the gradients are scaled (float16); they may overflow.

        Returns:
            str: "overflow" = let the scaler leave the step out; "skip" = leave the step out.

        Raises:
            NonFiniteError: with the same message on all processes.
        """
        model = unwrapped(model)
        report = self._report(model, seen, reason)
        reports = comm.all_gather(report)
        any_term = any(r["terms"] for r in reports)
        if scaler is not None and scaler.is_enabled() and not any_term:
            self.overflows += 1
            if self.overflows <= self.max_overflows:
                return "overflow"
            raise NonFiniteError(
                f"float16 gradients overflowed in {self.overflows} steps in a row, the last of them iteration "
                f"{iteration} (SOLVER.NON_FINITE.MAX_OVERFLOWS; the loss scale is down to {scaler.get_scale():g}): "
                "use SOLVER.AMP.DTYPE bfloat16, or lower SOLVER.BASE_LR."
            )
        if report["terms"] or not any_term:
            self._write(iteration, model, seen, report)
        text = _describe(iteration, reports)
        broken = [name for r in reports for name in r["buffers"]]
        if broken:
            raise NonFiniteError(f"{text} It spoilt {broken[0]} too: resume from an earlier checkpoint (--resume).")
        if self.skipped >= self.skip_steps:
            where = f" The batch is in {self._folder()}." if self.output_dir else ""
            after = f" {self.skip_steps} such steps were skipped before." if self.skip_steps else ""
            raise NonFiniteError(
                f"{text}{after}{where} Lower SOLVER.BASE_LR, set SOLVER.CLIP_GRADIENTS.ENABLED True, use bfloat16 in "
                "place of float16, or skip such steps: SOLVER.NON_FINITE.SKIP_STEPS."
            )
        self.skipped += 1
        logger.warning("%s The step is skipped (%d of %d).", text, self.skipped, self.skip_steps)
        return "skip"

    def state_dict(self):
        return {"skipped": self.skipped, "overflows": self.overflows}

    def load_state_dict(self, state):
        self.skipped, self.overflows = state["skipped"], state["overflows"]

    def _report(self, model, seen, reason):
        """What this process saw: names of terms, the images of their micro-batches, spoilt buffers."""
        terms, files = {}, []
        for batch, losses in seen:
            bad = {k: float(v) for k, v in losses.items() if not v.isfinite()}
            terms.update(bad)
            files.append((bool(bad), [str(x.get("file_name", "?")) if isinstance(x, dict) else "?" for x in batch]))
        files = [f for bad, names in files if bad or not terms for f in names]
        gradients = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.norm().isfinite()]
        # the running statistics of a trained BatchNorm are changed by the pass itself
        buffers = [n for n, b in model.named_buffers() if b.is_floating_point() and not b.isfinite().all()]
        return {"terms": terms, "files": files, "gradients": gradients, "buffers": buffers, "reason": reason}

    def _folder(self):
        return os.path.join(self.output_dir, "non_finite")

    def _write(self, iteration, model, seen, report):
        """The batch as plain tensors and containers, for ``torch.load(FILE, weights_only=True)``."""
        if not self.output_dir:
            return
        file = os.path.join(self._folder(), f"iteration_{iteration:07d}_rank{comm.get_rank()}.pth")
        content = {
            "iteration": iteration, "rank": comm.get_rank(), **report,
            "micro_batches": [
                {"inputs": to_plain_containers(batch), "losses": {k: float(v) for k, v in losses.items()}}
                for batch, losses in seen
            ],
        }  # fmt: skip
        try:
            os.makedirs(self._folder(), exist_ok=True)
            write_whole(file, lambda f: torch.save(content, f))
        except (OSError, RuntimeError) as e:  # a full disk must not hide what went wrong
            logger.warning("cannot write %s: %s", file, e)


def save_state_before(trainer):
    """Save what a trainer had before the iteration that failed, if no checkpoint has it yet.

    All processes call it. The checkpoint is named after the last finished iteration, so that ``--resume`` goes on
    with the one that failed.

    Returns:
        str: a sentence that says where it is, or why there is none.
    """
    if trainer.iter <= trainer.start_iter:
        before = comm.all_gather(trainer.checkpointer.last_good)[0]
        return f"The state before it is in {before}." if before else "No step of this run was finished before."
    trainer.iter -= 1  # what a checkpoint tells is its last finished iteration
    try:
        trainer.saver.state.collect()
        # the others wait: the first process to end makes the launcher end all
        return comm.all_gather(_save_state(trainer) if comm.is_main_process() else "")[0]
    finally:
        trainer.iter += 1


def _save_state(trainer):
    checkpointer, name = trainer.checkpointer, f"model_{trainer.iter:07d}"
    file = os.path.join(checkpointer.save_dir, f"{name}.pth")
    if checkpointer.last_good != file:  # one that lies there may be another run's
        try:
            checkpointer.save(name, iteration=trainer.iter)
        except NonFiniteState as e:
            return f"The state before it is not finite either: {e}. {resume_from(checkpointer)}"
        except (OSError, RuntimeError) as e:  # a full disk must not hide what went wrong
            return f"The state before it could not be saved ({' '.join(str(e).split())[:100]})."
    return f"The state before it is in {file}."


def resume_from(checkpointer):
    """What to do where the state of now is lost, as a sentence."""
    if checkpointer.last_good:
        return f"--resume continues from {checkpointer.last_good}."
    return "This run has saved no checkpoint yet: start it again."


def _describe(iteration, reports, most=8):
    """One sentence of all processes' reports: what, when, which images."""
    with_terms = [r for r in reports if r["terms"]]
    reasons = [r["reason"] for r in reports if r["reason"] and FORWARD in r["terms"]]
    if reasons:
        what = f"the forward pass stopped ({reasons[0].rstrip('.')})"
    elif with_terms:
        terms = {k: v for r in with_terms for k, v in r["terms"].items()}
        what = ", ".join(f"{k} is {v}" for k, v in terms.items())
    else:
        names = reports[0]["gradients"]
        more = f" and of {len(names) - 1} more" if len(names) > 1 else ""
        what = f"all losses are finite, but the gradient of {names[0] if names else 'a parameter'}{more} is not"
    files = [f for r in (with_terms or reports) for f in r["files"]]
    shown = ", ".join(files[:most]) + (f" and {len(files) - most} more" if len(files) > most else "")
    return f"iteration {iteration}: {what}; images: {shown}."
