"""The teacher: an exponential moving average of the student (MIC, Sec. 3.2, Eq. 7)."""

import torch


def ema_alpha(t, alpha):
    """a_t = min(1 - 1 / (t + 1), alpha): the teacher's share at update t; 0 (a plain copy) at t = 0."""
    return min(1 - 1 / (t + 1), alpha)


@torch.no_grad()
def ema_update(teacher, student, alpha):
    """One step of the average, in place: phi <- alpha phi + (1 - alpha) theta (MIC, Eq. 7).

    Parameters and floating-point buffers are averaged in one fused pass; other buffers are copied.

    Args:
        teacher, student (nn.Module): of the same architecture, on the same device.
        alpha (float): the teacher's share, in [0, 1]; 0 copies the student.

    Raises:
        ValueError: where alpha is outside [0, 1], or the two have different tensors.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    averaged, values, copied, originals = [], [], [], []
    for name, mean, value in _paired_tensors(teacher, student):
        if mean.shape != value.shape:
            raise ValueError(f"{name} is {tuple(mean.shape)} in the teacher, {tuple(value.shape)} in the student")
        means, others = (averaged, values) if mean.is_floating_point() else (copied, originals)
        means.append(mean)
        others.append(value)
    if averaged:
        torch._foreach_lerp_(averaged, values, 1 - alpha)
    if copied:
        torch._foreach_copy_(copied, originals)


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
