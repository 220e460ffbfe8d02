"""What a run was made on, in one line of its log: numbers of speed mean nothing without it."""

import os
import platform
from pathlib import Path

import torch

from .. import __version__


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
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()
