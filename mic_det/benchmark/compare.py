"""The MIC steps of several configs, such as those of several backbones, in alternation."""

import statistics
from pathlib import Path

import torch
from tabulate import tabulate

from .memory import peak_memory
from .synthetic import synthetic_batch
from .timing import alternate, ratio_to_floor
from .variants import make_variant


def compare_configs(cfgs, size, repeats, memory=True, modules=()):
    """
    Args:
        cfgs (dict[str, CfgNode]): by name; the first is what the others are compared with.
        size ((int, int)): height and width of the images, which are noise.
        repeats (int): rounds that count.
        memory (bool): whether to measure peak memory, each config in a process of its own.
        modules (sequence of str): those of ``--import``.

    Returns:
        dict[str, dict]: by name: ``parameters`` of the student and of its ``backbone_parameters``, ``median_ms``, the
        median over the rounds of the ``ratio`` to the first config, and ``peak_mib`` where it was measured.
    """
    variants = {}
    for name, cfg in cfgs.items():
        batch = synthetic_batch(cfg, size, torch.Generator().manual_seed(0))
        variants[name] = make_variant(cfg, "mic", [batch])
    seconds = alternate({name: v.run for name, v in variants.items()}, repeats)
    first, result = next(iter(cfgs)), {}
    for name, variant in variants.items():
        student = variant.model.student
        result[name] = {
            "parameters": _count(student),
            "backbone_parameters": _count(student.backbone),
            "median_ms": statistics.median(seconds[name]) * 1000,
            "ratio": ratio_to_floor(seconds, name, [first]),
        }
    del variants, variant, student
    if memory:
        for name, cfg in cfgs.items():
            result[name]["peak_mib"] = peak_memory(cfg, "mic", size, modules=modules)["peak"]
    return result


def _count(module):
    """Number of a module's parameters, including frozen BatchNorm's, which are buffers."""
    return sum(t.numel() for t in module.state_dict().values() if t.is_floating_point())


def compared_as_text(result):
    """The table that is printed."""
    rows = [
        [
            Path(name).stem, f"{x['backbone_parameters'] / 1e6:.1f}", f"{x['parameters'] / 1e6:.1f}",
            f"{x['median_ms']:.0f}", f"{x['ratio']:.2f}", f"{x['peak_mib']:.0f}" if "peak_mib" in x else "",
        ]
        for name, x in result.items()
    ]  # fmt: skip
    titles = ["MIC step", "backbone, 10^6", "student, 10^6", "ms (median)", "x first", "peak MiB"]
    return tabulate(rows, titles, disable_numparse=True)
