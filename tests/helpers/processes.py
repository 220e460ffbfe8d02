"""Two real processes that talk over gloo; a hang fails the test instead of blocking it."""

import contextlib
import os
import resource
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm


def run_pair(worker, folder, *args, timeout=600):
    """Run ``worker(rank, folder, *args)`` in two processes and return what each returned.

    What it returns must be loadable by ``torch.load(weights_only=True)``.
    """
    context = mp.start_processes(_run, (worker, str(folder), args), nprocs=2, join=False, start_method="spawn")
    deadline = time.monotonic() + timeout
    try:
        while not context.join(timeout=5):
            assert time.monotonic() < deadline, f"two processes did not end within {timeout} s: they hang"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(f"{folder}/result{rank}.pth", weights_only=True) for rank in (0, 1)]


def _run(rank, worker, folder, args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    torch.save(worker(rank, folder, *args), f"{folder}/result{rank}.pth")
    comm.synchronize()  # who leaves first closes the connection that the other may still read from
    os._exit(0)  # gloo's threads may free a tensor during the interpreter's end, which aborts the process


@contextlib.contextmanager
def small_files(size):
    """No file may have more than this number of bytes: writing fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
