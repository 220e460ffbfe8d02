"""A student and its EMA teacher as one module that any trainer can train."""

import weakref

import torch
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..utils.step_timer import record
from .batch_norm import average_statistics
from .teacher import ema_alpha, ema_update

_watched = weakref.WeakSet()  # models whose optimizer steps are counted
_hook = None


def _watch_optimizers(model):
    """Notify a model of each step of an optimizer that holds its student's parameters, as long as it lives."""
    # One hook for all models that is never removed: garbage is also collected in the middle of a step, when the
    # hooks are being gone through. Not by version counters of the parameters: fused optimizers leave them as they are.
    global _hook
    if _hook is None:
        register_optimizer_step_pre_hook(_before_optimizer_step)
        _hook = register_optimizer_step_post_hook(_after_optimizer_step)
    _watched.add(model)


def _before_optimizer_step(optimizer, *_):
    for model in _models_of(optimizer):
        model.before_optimizer_step()


def _models_of(optimizer):
    """The watched models whose student has parameters of an optimizer."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [x for x in list(_watched) if any(id(p) in stepped for p in x.student.parameters())]


def _after_optimizer_step(optimizer, *_):
    # A GradScaler leaves it to a fused optimizer's kernel to skip the step where this tensor, which it lends to the
    # optimizer for the call, is not 0. It is read when the teacher is needed: here the host would wait for the device.
    overflow = getattr(optimizer, "found_inf", None)
    for model in _models_of(optimizer):
        model._pending_steps.append(overflow)
        model.after_optimizer_step()


class StudentTeacher(nn.Module):
    """Two models of one architecture: the student is trained, the teacher is its average (MIC, Eq. 7).

    The teacher needs no hook and no trainer of its own: it is brought up to date, once for each
    optimizer step, by the first thing that needs it afterwards (the next training step, evaluation or
    ``state_dict``). PyTorch itself tells of each step of an optimizer that holds the student's
    parameters, so accumulation of gradients and AMP steps that were skipped (by GradScaler, or by a fused optimizer's
    kernel on its behalf) are counted right. All processes of a distributed training take the same steps and so hold the
    same teacher. Statistics of trained BatchNorm layers, which each process gathers from its own images, are averaged
    over all processes after each step.
    """

    def __init__(
        self, student, teacher, *, alpha, burn_in_steps=0, ema_in_burn_in=False, evaluate="teacher", sharpness=None
    ):
        """
        Args:
            student, teacher (nn.Module): of the same architecture.
            alpha (float): the average's limit, in [0, 1).
            burn_in_steps (int): optimizer steps during which the teacher is a copy of the student;
                t counts from 0 after them.
            ema_in_burn_in (bool): whether it is the average in these steps too; t counts from the first step.
            evaluate (str): "teacher" or "student", whose ``inference`` is used; "both" = the teacher's,
                and trainers evaluate the student too.
            sharpness (SharpnessAware): moves the student's weights within a step; they are back before the optimizer
                steps, and before anything else uses them. None = no such moves.
        """
        super().__init__()
        self.student = student
        self.teacher = teacher.requires_grad_(False).eval()
        self.alpha = alpha
        self.burn_in_steps = burn_in_steps
        self.steps_before_ema = 0 if ema_in_burn_in else burn_in_steps
        self.evaluate = evaluate
        self.sharpness = sharpness
        # optimizer steps taken so far; on the CPU's side so that no step waits for the device
        self.steps = 0
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self._teacher_ready = False
        # optimizer steps that the average does not know yet: for each None, or a tensor that is 0 if it was taken
        self._pending_steps = []
        self.register_state_dict_pre_hook(_before_state_dict)
        self._register_load_state_dict_pre_hook(self._before_load)
        self.register_load_state_dict_post_hook(_after_load)

    @property
    def device(self):
        return self.student.device

    def train(self, mode=True):
        """Training mode is the student's alone: the teacher stays in inference mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def begin_step(self):
        """Call at the start of each training pass: the teacher is then as it should be for it."""
        _watch_optimizers(self)
        if not self._teacher_ready:  # t = 0: the teacher is a copy of the student
            ema_update(self.teacher, self.student, 0.0)
            self._teacher_ready = True
        self.update_teacher()

    def before_optimizer_step(self):
        """The optimizer steps from the student's weights themselves."""
        if self.sharpness is not None:
            self.sharpness.restore()

    def after_optimizer_step(self):
        """What all processes do together, while a teacher is brought up to date by one alone too."""
        average_statistics(self.student)

    def update_teacher(self):
        """Take the student's optimizer step since the last call, if any, into the average; idempotent."""
        if self.sharpness is not None:  # a step was left out
            self.sharpness.restore()
        pending, self._pending_steps = self._pending_steps, []
        if any(overflow is None or not overflow.item() for overflow in pending):
            self.steps += 1
            with record("EMA"):
                alpha = ema_alpha(max(0, self.steps - self.steps_before_ema), self.alpha)
                ema_update(self.teacher, self.student, alpha)

    def restart(self, weights_from="teacher"):
        """Make a loaded model the start of a new training: both are one of the two, t = 0."""
        chosen, other = self.teacher, self.student
        if weights_from == "student":
            chosen, other = other, chosen
        ema_update(other, chosen, 0.0)
        self.steps, self._pending_steps = 0, []

    def _before_load(self, state_dict, prefix, *args):
        """Let a plain detector's weights warm-start both student and teacher."""
        ours = (prefix + "student.", prefix + "teacher.")
        keys = [k for k in state_dict if k.startswith(prefix)]
        if keys and not any(k.startswith(ours) for k in keys):
            for key in keys:
                value = state_dict.pop(key)
                for part in ours:
                    state_dict[part + key[len(prefix) :]] = value
            state_dict[prefix + "num_steps"] = torch.zeros_like(self.num_steps)
        self._teacher_ready |= any(k.startswith(ours[1]) for k in state_dict)

    def inference(self, batched_inputs, do_postprocess=True):
        """Detections of the model that ``MODEL.MIC.EVALUATE`` names; both must be in eval mode."""
        self.update_teacher()
        model = self.student if self.evaluate == "student" else self.teacher
        if isinstance(model, (GeneralizedRCNN, PanopticFPN)):
            return model.inference(batched_inputs, do_postprocess=do_postprocess)
        # other models predict by their forward alone, in the size of the images' files; here the inputs' own
        if not do_postprocess:
            batched_inputs = [{"image": x["image"]} for x in batched_inputs]
        outputs = model(batched_inputs)
        return outputs if do_postprocess else [x.get("instances", x) for x in outputs]


def _before_state_dict(module, prefix, keep_vars):
    """A checkpoint's teacher includes the last optimizer step, and its number of steps."""
    module.update_teacher()
    module.num_steps.fill_(module.steps)


def _after_load(module, incompatible_keys):
    module.steps = int(module.num_steps)
    module._pending_steps = []  # what was loaded is the starting point, not an optimizer step
