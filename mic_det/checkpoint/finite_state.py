"""Whether what is loaded or saved is finite, by the names of its tensors."""

import torch


def first_nonfinite(tensors):
    """The name of the first tensor that holds NaN or an infinite value; "" where all are finite.

    Args:
        tensors (iterable of (str, Tensor)): by name; whole numbers are always finite.

    All tensors of one device are looked at in a few calls, and the device is waited for once.
    """
    named = [(n, t.detach()) for n, t in tensors if (t.is_floating_point() or t.is_complex()) and t.numel()]
    if not named:
        return ""
    # The largest absolute value is NaN or infinite where one value is; a sum of squares would overflow.
    devices = {}
    for name, tensor in named:
        devices.setdefault(tensor.device, []).append((name, tensor))
    for group in devices.values():
        finite = torch.stack([_finite(t) for _, t in group]).tolist()
        for (name, _), good in zip(group, finite):
            if not good:
                return name
    return ""


def _finite(tensor):
    if tensor.is_complex() or tensor.element_size() < 2:  # float8 has no aminmax
        return tensor.isfinite().all()
    low, high = torch.aminmax(tensor)
    return low.isfinite() & high.isfinite()


def nested_tensors(content, name=""):
    """``(dotted name, tensor)`` of all tensors in nested dicts, lists and tuples."""
    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from nested_tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            yield from nested_tensors(value, f"{name}[{i}]")
