"""The state of a training in a checkpoint: whether it is well formed, and which part of it fits the training now."""

import math

import numpy as np
import torch

from ..modeling.loss_normalizer import NAMES as NORMALIZERS
from .finite_state import first_nonfinite, nested_tensors

MOST_STEPS = 10**9
MOST_BATCHES = 10**5  # a step; more would take hours to be skipped
MT_WORDS = 624  # of the Mersenne twister, which Python and NumPy use


class Malformed(ValueError):
    """An entry of a checkpoint that no training has written; the message names it."""


def state_problem(checkpoint):
    """What keeps any training from resuming from a checkpoint, whatever its config is; "" where nothing does.

    Args:
        checkpoint (dict): its whole content; ``model`` is a dict of tensors.
    """
    name = first_nonfinite(checkpoint["model"].items())
    if name:
        return f"its weights {name!a} are NaN or infinite"
    try:
        if "trainer" in checkpoint:
            _check_trainer(checkpoint["trainer"])
    except (Malformed, RecursionError) as e:
        return str(e)
    return ""


def _check_trainer(state):
    _need(isinstance(state, dict), "trainer", "a dict", state)
    last = _whole(state, "iteration", "trainer", MOST_STEPS)
    hooks = state.get("hooks", {})
    _need(isinstance(hooks, dict), "trainer.hooks", "a dict", hooks)
    inner = state.get("_trainer")
    _need(isinstance(inner, dict), "trainer._trainer", "a dict", inner)
    _whole(inner, "iteration", "trainer._trainer", MOST_STEPS)
    _need(isinstance(inner.get("hooks", {}), dict), "trainer._trainer.hooks", "a dict", inner.get("hooks"))
    _check_optimizer(inner.get("optimizer"), inner.get("optimizer_names"))
    _check_scaler(inner.get("grad_scaler"))
    if "finite" in inner:
        for key in ("skipped", "overflows"):
            _whole(_dict(inner["finite"], "trainer._trainer.finite"), key, "trainer._trainer.finite", MOST_STEPS)
    if "ExactState" in hooks:
        _check_exact(hooks["ExactState"], last)
    if hooks.get("RunWriter"):
        _check_writer(hooks["RunWriter"])


def _check_optimizer(state, names):
    where = "trainer._trainer.optimizer"
    groups = _dict(state, where).get("param_groups")
    ok = isinstance(groups, list) and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)
    _need(ok, f"{where}.param_groups", "a list of groups of parameters", groups)
    ids = [i for g in groups for i in g["params"]]
    _need(all(map(_is_whole, ids)) and len(set(ids)) == len(ids), f"{where}.param_groups", "numbers, each once", ids)
    if names is not None:
        ok = isinstance(names, list) and len(names) == len(ids) and all(isinstance(n, str) for n in names)
        _need(ok and len(set(names)) == len(names), "trainer._trainer.optimizer_names", "a name for each", names)
    entries, known = _dict(state.get("state"), f"{where}.state"), set(ids)
    for i, values in entries.items():
        here = f"{where}.state[{i!r}]"
        _need(_is_whole(i) and i in known, here, "of a parameter in param_groups", i)
        for key, value in _dict(values, here).items():
            fine = value is None or _is_number(value) or (isinstance(value, torch.Tensor) and is_dense(value))
            _need(fine, f"{here}.{key}", "a dense tensor or a number", value)
            if key == "momentum_buffer" and value is not None:
                floating = isinstance(value, torch.Tensor) and value.is_floating_point()
                _need(floating, f"{here}.{key}", "a tensor of floating-point numbers", value)
    name = first_nonfinite(nested_tensors(entries))
    _need(not name, f"{where}.state.{name}", "finite", "NaN or infinite")


def is_dense(tensor):
    """Whether a tensor holds plain real numbers in memory of its own, as weights do."""
    kind = tensor.is_quantized or tensor.is_nested or tensor.is_complex() or tensor.layout != torch.strided
    return not kind and tensor.device.type != "meta"


def _check_scaler(state):
    where = "trainer._trainer.grad_scaler"
    if not state:  # of a run that was not in float16
        return
    scale = _dict(state, where).get("scale")
    ok = isinstance(scale, float) and 0 < scale <= torch.finfo(torch.float32).max
    _need(ok, f"{where}.scale", "a number above 0", scale)
    _whole(state, "_growth_tracker", where, MOST_STEPS)


def _check_exact(state, last):
    where = "trainer.hooks.ExactState"
    state = _dict(state, where)
    random = state.get("random")
    _need(isinstance(random, list) and bool(random), f"{where}.random", "a list of states", random)
    for i, one in enumerate(random):
        _check_random(one, f"{where}.random[{i}]")
    _check_normalizers(state.get("normalizers"), len(random), f"{where}.normalizers")
    data, here = _dict(state.get("data"), f"{where}.data"), f"{where}.data"
    _whole(data, "seed", here, 2**63)
    for key, most in (("batches", (last + 1) * MOST_BATCHES), ("batch_size", 10**6)):
        for name in _dict(data.get(key), f"{here}.{key}"):
            _whole(data[key], name, f"{here}.{key}", most)
    settings = _dict(state.get("settings"), f"{where}.settings")
    _need(all(isinstance(x, str) for kv in settings.items() for x in kv), f"{where}.settings", "texts", settings)


def _check_normalizers(state, processes, where):
    """For each process, the numbers of each of its dense detectors; earlier versions had none."""
    if state is None:
        return
    _need(isinstance(state, list) and len(state) == processes, where, "a list as long as that of random numbers", state)
    for i, detectors in enumerate(state):
        for numbers in _list(detectors, f"{where}[{i}]"):
            for name, value in _dict(numbers, f"{where}[{i}]").items():
                ok = name in NORMALIZERS and _is_number(value) and value > 0
                _need(ok, f"{where}[{i}]", "running numbers above 0 of labelled and masked images", value)


def _check_random(state, where):
    python, numpy, own = (_dict(state, where).get(k) for k in ("python", "numpy", "torch"))
    ok = isinstance(python, (tuple, list)) and len(python) == 3 and isinstance(python[1], (tuple, list))
    ok = ok and python[0] == 3 and len(python[1]) == MT_WORDS + 1 and all(_is_whole(x, 2**32 - 1) for x in python[1])
    ok = ok and python[1][-1] <= MT_WORDS and (python[2] is None or _is_number(python[2]))
    _need(ok, f"{where}.python", "a state of Python's random numbers", python)
    ok = isinstance(numpy, (tuple, list)) and len(numpy) == 5 and numpy[0] == "MT19937"
    ok = ok and isinstance(numpy[1], torch.Tensor) and is_dense(numpy[1]) and not numpy[1].is_floating_point()
    ok = ok and numpy[1].shape == (MT_WORDS,) and _is_whole(numpy[2], MT_WORDS) and numpy[3] in (0, 1)
    _need(ok and _is_number(numpy[4]), f"{where}.numpy", "a state of NumPy's random numbers", numpy)
    states = [own, *_list(state.get("cuda", []), f"{where}.cuda")]
    ok = all(isinstance(x, torch.Tensor) and is_dense(x) and x.dtype == torch.uint8 and x.dim() == 1 for x in states)
    _need(ok, f"{where}.torch", "states of torch's random numbers", own)
    try:
        torch.Generator().set_state(own)
    except (RuntimeError, TypeError, ValueError):
        raise Malformed(f"its entry {where}.torch is no state of torch's random numbers") from None


def _check_writer(state):
    where = "trainer.hooks.RunWriter"
    for key in ("metrics_size", "max_iter"):
        if key in _dict(state, where):
            _whole(state, key, where, 2**62)
    for name, entry in _dict(state.get("values", {}), f"{where}.values").items():
        ok = isinstance(name, str) and isinstance(entry, (tuple, list)) and len(entry) == 2
        ok = ok and isinstance(entry[0], bool) and isinstance(entry[1], list)
        pairs = entry[1] if ok else []
        ok = ok and all(isinstance(p, (tuple, list)) and len(p) == 2 and _is_whole(p[1], MOST_STEPS) for p in pairs)
        _need(ok and all(isinstance(p[0], (int, float)) for p in pairs), f"{where}.values", "logged values", entry)


def _need(ok, where, what, found):
    if not ok:
        shown = type(found).__name__ if not isinstance(found, (str, int, float)) else str(found)[:60]
        raise Malformed(f"its entry {where} must be {what}; it is {shown!a}")


def _dict(value, where):
    _need(isinstance(value, dict), where, "a dict", value)
    return value


def _list(value, where):
    _need(isinstance(value, (list, tuple)), where, "a list", value)
    return value


def _whole(state, key, where, most):
    value = state.get(key)
    _need(_is_whole(value, most), f"{where}.{key}", f"a whole number from 0 to {most}", value)
    return value


def _is_whole(value, most=2**62):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_number(value):
    if isinstance(value, int):
        return abs(value) <= 2**62
    return isinstance(value, (float, np.floating)) and math.isfinite(value)


# ------------------------------------------------------------------------------------ the optimizer


def parameter_names(model, optimizer):
    """The names of an optimizer's parameters, in the order in which its state dict counts them."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names.get(id(p), f"parameter {i}") for i, p in enumerate(_parameters(optimizer))]


def _parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def fitting_optimizer_state(saved, saved_names, optimizer, names):
    """What of a saved optimizer's state belongs to the parameters that there are now, by name and shape.

    Options of the groups (learning rate, weight decay, momentum) are those of ``optimizer``: the config's.

    Args:
        saved (dict): an optimizer's state dict, well formed (:func:`state_problem`).
        saved_names (list[str] or None): :func:`parameter_names` of then. Without them, parameters are told apart by
            their place, which holds only where all shapes fit.
        optimizer (Optimizer): of now.
        names (list[str]): :func:`parameter_names` of now.

    Returns:
        (dict, list[str]): a state dict for ``optimizer``, and the names of the parameters whose state starts from zero.

    Raises:
        Malformed: where a value is too large for the parameter's number format.
    """
    ids = [i for group in saved["param_groups"] for i in group["params"]]
    parameters = dict(zip(names, _parameters(optimizer)))
    if saved_names is None:
        placed = dict(zip(names, ids)) if len(ids) == len(names) else {}
        if not all(_fits(saved["state"].get(i, {}), parameters[name], optimizer) for name, i in placed.items()):
            placed = {}
    else:
        placed = dict(zip(saved_names, ids))
    state, anew = {}, []
    for i, (name, parameter) in enumerate(parameters.items()):
        values = saved["state"].get(placed[name], {}) if name in placed else None
        if values is None or not _fits(values, parameter, optimizer):
            anew.append(name)
        elif values:
            state[i] = {k: _cast(v, parameter, f"{name}: {k}") for k, v in values.items()}
    if not saved["state"]:  # nothing was there to be lost
        anew = []
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}, anew


def _fits(values, parameter, optimizer):
    """Whether all tensors of a parameter's state have its shape, or are single numbers such as a count of steps.

    AdamW's state is none of SGD's, and the other way round.
    """
    if values and ("betas" in optimizer.defaults) != ("exp_avg" in values):
        return False
    own = values.get("momentum_buffer")
    if own is not None and own.shape != parameter.shape:
        return False
    return all(v.shape in (parameter.shape, ()) for v in values.values() if isinstance(v, torch.Tensor))


def _cast(value, parameter, name):
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape or value.dtype == parameter.dtype:
        return value
    value = value.to(parameter.dtype)
    if first_nonfinite([(name, value)]):
        raise Malformed(f"its optimizer's state of {name} is beyond {parameter.dtype}")
    return value
