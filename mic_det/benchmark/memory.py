"""Peak memory of one variant, in a process of its own (``python -m mic_det.benchmark.memory``)."""

import json
import os
import subprocess
import sys
import tempfile

MEGABYTE = 2**20


def peak_memory(cfg, name, size, steps=3, modules=()):
    """Peak memory of a few steps of a variant, in MiB.

    On a GPU what PyTorch's allocator handed out at most (``max_memory_allocated``). On a CPU the largest resident
    set of the process less what it held before the model was built; memory that is freed goes back to the system at
    once there (``MALLOC_MMAP_THRESHOLD_``), so that the allocator's reserves do not count.

    Args:
        cfg (CfgNode), name (str): of the variant; weights are random.
        size ((int, int)): height and width of the images, which are noise.
        modules (sequence of str): imported first in the process, see ``--import``.

    Returns:
        dict[str, float]: ``peak`` and ``weights`` (parameters and buffers of the plain model or the student) in MiB.

    Raises:
        RuntimeError: where the process fails, with the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config.yaml")
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = ""
        with open(path, "w", encoding="utf-8") as f:
            f.write(cfg.dump())
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MEGABYTE), "MALLOC_TRIM_THRESHOLD_": str(MEGABYTE)}
        command = [sys.executable, "-m", "mic_det.benchmark.memory", path, name, *map(str, size), str(steps), *modules]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"memory of {name}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _resident(key):
    """``VmRSS`` or ``VmHWM`` (its maximum) of this process in bytes; Linux alone tells."""
    with open("/proc/self/status", encoding="utf-8") as f:
        for line in f:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def _forget_peak():
    with open("/proc/self/clear_refs", "w", encoding="ascii") as f:
        f.write("5")  # proc(5): the peak becomes the present size


def main(path, name, height, width, steps, *modules):
    import torch

    from ..engine.setup import get_mic_cfg
    from ..utils.own_code import import_own_code
    from .synthetic import synthetic_batch
    from .variants import make_variant

    import_own_code(modules)
    cfg = get_mic_cfg(path)
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    batch = synthetic_batch(cfg, (int(height), int(width)), torch.Generator().manual_seed(0))
    torch.nn.Conv2d(3, 3, 3)(torch.zeros(1, 3, 8, 8)).sum().backward()  # load the libraries that steps need
    if on_gpu:
        torch.zeros(1, device=cfg.MODEL.DEVICE)
        torch.cuda.reset_peak_memory_stats()
    else:
        _forget_peak()
        before = _resident("VmRSS")
    variant = make_variant(cfg, name, [batch])
    for _ in range(int(steps)):
        variant.run()
    peak = torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM") - before
    model = getattr(variant.model, "student", variant.model)
    weights = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    print(json.dumps({"peak": peak / MEGABYTE, "weights": weights / MEGABYTE}))


if __name__ == "__main__":
    main(*sys.argv[1:])
