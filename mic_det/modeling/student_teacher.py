"""A student and its EMA teacher as one module. Any trainer can train it."""

import weakref

import torch
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..utils.step_timer import record
from .batch_norm import average_statistics
from .observations import Observations
from .teacher import ema_alpha, ema_update

_watched = weakref.WeakSet()  # models whose optimizer steps are counted
_hook = None


def _watch_optimizers(model):
    """Notify a model of each step of the optimizers that have its student's parameters, as long as the model exists."""
    # There is one hook for all models, and it is never removed: garbage may be collected during a step, while PyTorch
    # iterates over the hooks. Version counters of the parameters cannot be used: fused optimizers do not change them.
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
    # During the call, a GradScaler gives this tensor to a fused optimizer. The optimizer's kernel skips the step where
    # the tensor is not 0. We read it when the teacher is needed: here, the host would wait for the device.
    overflow = getattr(optimizer, "found_inf", None)
    for model in _models_of(optimizer):
        model._pending_steps.append(overflow)
        model.after_optimizer_step()


class StudentTeacher(nn.Module):
    """Two models of one architecture. The student is trained. The teacher is its moving average (MIC, Eq. 7).

    The teacher needs no hook and no trainer of its own. It is updated once for each optimizer step, when it is needed
    next: by the next training step, by an evaluation, or by ``state_dict``. PyTorch reports each step of an optimizer
    that has the student's parameters. So steps are counted correctly with gradient accumulation, and where AMP skips a
    step (in GradScaler, or in a fused optimizer's kernel). All processes of a distributed training take the same steps,
    so their teachers are equal. Each process computes the statistics of trained BatchNorm layers from its own images.
    They are averaged over all processes after each step.
    """

    def __init__(
        self, student, teacher, *, alpha, burn_in_steps=0, ema_in_burn_in=False, evaluate="teacher", sharpness=None
    ):
        """
        Args:
            student, teacher (nn.Module): two models of the same architecture.
            alpha (float): upper limit of the average's decay, in [0, 1).
            burn_in_steps (int): during these optimizer steps, the teacher is a copy of the student. Then t counts from
                0.
            ema_in_burn_in (bool): True = the teacher is the average in these steps, too, and t counts from the first
                step.
            evaluate (str): the model whose ``inference`` is used, "teacher" or "student". "both" = the teacher, and
                trainers evaluate the student, too.
            sharpness (SharpnessAware): moves the student's weights within a step. They are back before the optimizer
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
        # number of optimizer steps; it is on the CPU, so that no step waits for the device
        self.steps = 0
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self._teacher_ready = False
        # optimizer steps that are not in the average yet: None for each, or a tensor that is not 0 if it was skipped
        self._pending_steps = []
        self.register_state_dict_pre_hook(_before_state_dict)
        self._register_load_state_dict_pre_hook(self._before_load)
        self.register_load_state_dict_post_hook(_after_load)

    @property
    def device(self):
        return self.student.device

    def train(self, mode=True):
        """Set the mode of the student. The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def begin_step(self):
        """Update the teacher. Call this at the start of each training pass."""
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
        """Average the statistics of all processes. Unlike :meth:`update_teacher`, all processes do this together.

        What :class:`Observations` have observed in this step takes effect.
        """
        average_statistics(self.student)
        for module in self._observations():
            module.step()

    def _observations(self):
        return [m for m in self.children() if isinstance(m, Observations)]

    def update_teacher(self):
        """Update the average if the student took an optimizer step since the last call. A second call does nothing."""
        if self.sharpness is not None:  # a step was left out
            self.sharpness.restore()
        pending, self._pending_steps = self._pending_steps, []
        if any(overflow is None or not overflow.item() for overflow in pending):
            self.steps += 1
            with record("EMA"):
                alpha = ema_alpha(max(0, self.steps - self.steps_before_ema), self.alpha)
                ema_update(self.teacher, self.student, alpha)

    def restart(self, weights_from="teacher"):
        """Start a new training from a loaded model: one of the two is copied to the other, and t = 0.

        What was observed in the earlier training is forgotten.
        """
        chosen, other = self.teacher, self.student
        if weights_from == "student":
            chosen, other = other, chosen
        ema_update(other, chosen, 0.0)
        self.steps, self._pending_steps = 0, []
        for module in self._observations():
            module.reset()

    def _before_load(self, state_dict, prefix, *args):
        """Copy the weights of a plain detector to the student and to the teacher."""
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
        """Predictions of the model that ``MODEL.MIC.EVALUATE`` names. Both models must be in evaluation mode."""
        self.update_teacher()
        model = self.student if self.evaluate == "student" else self.teacher
        if isinstance(model, (GeneralizedRCNN, PanopticFPN)):
            return model.inference(batched_inputs, do_postprocess=do_postprocess)
        # Other models predict only by their forward, at the size of the image files. Without this size in the inputs,
        # they predict at the size of the input.
        if not do_postprocess:
            batched_inputs = [{"image": x["image"]} for x in batched_inputs]
        outputs = model(batched_inputs)
        return outputs if do_postprocess else [x.get("instances", x) for x in outputs]


def _before_state_dict(module, prefix, keep_vars):
    """Update the teacher and the number of steps, so that a checkpoint includes the last optimizer step."""
    module.update_teacher()
    module.num_steps.fill_(module.steps)


def _after_load(module, incompatible_keys):
    module.steps = int(module.num_steps)
    module._pending_steps = []  # loading is not an optimizer step
