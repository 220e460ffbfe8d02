"""The teacher: an exponential moving average of the student (MIC, Sec. 3.2, Eq. 7)."""

import operator

import torch


def ema_alpha(t, alpha):
    """a_t = min(1 - 1 / (t + 1), alpha): the teacher's share at update t; 0 (a plain copy) at t = 0."""
    return min(1 - 1 / (t + 1), alpha)


def ema_update(teacher, student, alpha):
    """One step of the average, in place: phi <- alpha phi + (1 - alpha) theta (MIC, Eq. 7).

    Parameters and floating-point buffers are averaged in one fused pass; other buffers are copied.

    Args:
        teacher, student (nn.Module): of the same architecture, on the same device.
        alpha (float): the teacher's share, in [0, 1]; 0 copies the student.

    Raises:
        ValueError: where alpha is outside [0, 1], or the two have different tensors.
    """
    WeightAverage(teacher, student).update(alpha)


class WeightAverage:
    """:func:`ema_update` of one pair of modules again and again: their tensors are looked up once.

    They are looked up again as soon as a module has another tensor or another part than before, as after ``.to()``,
    ``load_state_dict(assign=True)`` or the replacement of a layer.
    """

    def __init__(self, teacher, student):
        self.teacher, self.student = teacher, student
        self._owners = None

    @torch.no_grad()
    def update(self, alpha):
        """See :func:`ema_update`."""
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if self._owners is None or not all(_unchanged(*owner) for owner in self._owners):
            self._look_up()
        if self._averaged:
            torch._foreach_lerp_(self._averaged, self._values, 1 - alpha)
        if self._copied:
            torch._foreach_copy_(self._copied, self._originals)

    def _look_up(self):
        self._owners = None  # where a pair does not fit, the next update must not take the old lists
        self._averaged, self._values, self._copied, self._originals = [], [], [], []
        for name, mean, value in _paired_tensors(self.teacher, self.student):
            if mean.shape != value.shape:
                raise ValueError(f"{name} is {tuple(mean.shape)} in the teacher, {tuple(value.shape)} in the student")
            means, values = (
                (self._averaged, self._values) if mean.is_floating_point() else (self._copied, self._originals)
            )
            means.append(mean)
            values.append(value)
        self._owners = [
            (parts, list(parts.values()))
            for model in (self.teacher, self.student)
            for module in model.modules()
            for parts in (module._parameters, module._buffers, module._modules)
        ]


def _unchanged(parts, seen):
    """Whether a module's dict still holds the objects that were seen in it, and nothing else."""
    return len(parts) == len(seen) and all(map(operator.is_, parts.values(), seen))


def _paired_tensors(teacher, student):
    """List of (name, teacher's tensor, student's tensor) over parameters and buffers."""
    pairs = []
    for tensors in (torch.nn.Module.named_parameters, torch.nn.Module.named_buffers):
        ours, theirs = dict(tensors(teacher)), dict(tensors(student))
        if ours.keys() != theirs.keys():
            names = sorted(ours.keys() ^ theirs.keys())
            raise ValueError(f"teacher and student differ in architecture: only one of them has {names[0]}")
        pairs += [(name, tensor, theirs[name]) for name, tensor in ours.items()]
    return pairs
