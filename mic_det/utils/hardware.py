"""What a run was made on, in one line of its log: numbers of speed mean nothing without it."""

import os
import platform
import re
from pathlib import Path

import torch

from .. import __version__

BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # flags of CPUs that compute with it
FLOAT16 = {"avx512_fp16", "amx_fp16", "asimdhp"}
SLOW_AMP = (
    "SOLVER.AMP: this CPU has no %s instructions, so a step takes several times longer than in float32. Use "
    "SOLVER.AMP.ENABLED False."
)


def describe_hardware():
    """``mic_det VERSION on CPU, N cores, M GiB memory; GPU, GPU``; what the system does not tell is left out."""
    try:
        cores = len(os.sched_getaffinity(0))  # of this process, which may be fewer than the machine's
    except AttributeError:  # not on this system
        cores = os.cpu_count()
    parts = [_cpu_name(), f"{cores} cores"]
    try:
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB memory")
    except (AttributeError, ValueError, OSError):
        pass
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"mic_det {__version__} on {', '.join(parts)}; {', '.join(gpus) or 'no GPU'}"


def _cpu_name(file="/proc/cpuinfo"):
    names = [line.partition(":")[2].strip() for line in _cpuinfo(file).splitlines() if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def slow_number_format(cfg, file="/proc/cpuinfo"):
    """A warning where ``SOLVER.AMP`` slows a training on this CPU down; "" where it does not, or nobody can tell.

    Args:
        cfg (CfgNode): of :func:`mic_det.get_mic_cfg`, whose ``MODEL.DEVICE`` is a device that is there.
    """
    if cfg.MODEL.DEVICE != "cpu" or not cfg.SOLVER.AMP.ENABLED:
        return ""
    flags, number_format = cpu_flags(file), cfg.SOLVER.AMP.DTYPE
    fast = flags & (BFLOAT16 if number_format == "bfloat16" else FLOAT16)
    return SLOW_AMP % number_format if flags and not fast else ""


def cpu_flags(file="/proc/cpuinfo"):
    """Names of the instructions that this CPU has, as Linux tells them; empty on other systems."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", _cpuinfo(file), re.MULTILINE)
    return set(found[1].split()) if found else set()


def _cpuinfo(file):
    """What Linux tells of the CPU; "" on other systems."""
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
