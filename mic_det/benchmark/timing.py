"""Alternating measurements, so that what else the machine does hits all that is compared alike."""

import statistics
import time
import warnings
from collections import Counter

import torch

from ..utils.step_timer import StepTimer

# the order in which a step goes through them
PARTS = (
    "data wait", "EMA", "teacher", "pseudo-labels", "mask and colour", "student forward", "losses", "backward",
    "optimizer", "other",
)  # fmt: skip
PACKAGES = ("mic_det", "detectron2")  # which may lie anywhere, not only in site-packages


def synchronize():
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(function):
    """Wall-clock seconds of one call, all of its work on the device included."""
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def alternate(functions, repeats, warmup=2):
    """Time functions in turn, each round beginning with another.

    Args:
        functions (dict[str, callable]): by name.
        repeats (int), warmup (int): rounds that count, after rounds that do not.

    Returns:
        dict[str, list[float]]: seconds of each round, by name.
    """
    names, seconds = list(functions), {name: [] for name in functions}
    for i in range(warmup + repeats):
        for j in range(len(names)):
            name = names[(i + j) % len(names)]
            elapsed = seconds_of(functions[name])
            if i >= warmup:
                seconds[name].append(elapsed)
    return seconds


def ratio_to_floor(seconds, name, floor):
    """Median over the rounds of ``name``'s seconds / the sum of the floor's in the same round."""
    rounds = zip(seconds[name], *(seconds[f] for f in floor))
    return statistics.median(mine / sum(others) for mine, *others in rounds)


def waits_for_gpu(step):
    """Where the host waits for the GPU in one call, as ``torch.cuda.set_sync_debug_mode`` sees it.

    Returns:
        dict[str, int]: number of waits by "package/folder/file.py:line"; empty without a GPU.
    """
    if not torch.cuda.is_available():
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchroniz" in str(w.message)]
    return dict(Counter(f"{place_in_package(w.filename)}:{w.lineno}" for w in waits))


def place_in_package(filename):
    """A Python file by its package: what is above the package's folder tells of the machine alone."""
    *folders, name = filename.split("/")
    known = [i for i, x in enumerate(folders) if x in PACKAGES] or [-1]
    start = max(known[-1], len(folders) - folders[::-1].index("site-packages") if "site-packages" in folders else 0)
    return "/".join([*folders[start:], name])


def measure_parts(step, repeats, warmup=2):
    """Median seconds of each part of a training step; "other" is what no section covers.

    Returns:
        dict[str, float]: by the names in ``PARTS``, those that took no time left out; they sum to about one step.
    """
    rounds = []
    for i in range(warmup + repeats):
        with StepTimer() as watch:
            total = seconds_of(step)
        if i >= warmup:
            rounds.append({**watch.seconds, "other": total - sum(watch.seconds.values())})
    return {p: statistics.median(r.get(p, 0.0) for r in rounds) for p in PARTS if any(p in r for r in rounds)}
