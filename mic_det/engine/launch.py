"""Several processes, one a GPU (or on the CPU): started here on one or more machines, or by torchrun.

Detectron2's ``launch`` starts them too, but knows no torchrun, ends with one traceback a process, and waits
for the others for half an hour where one has failed on the CPU.
"""

import argparse
import atexit
import errno
import logging
import multiprocessing.connection
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm

from ..errors import ConfigError, MICError
from ..utils.arguments import add_launch_arguments, add_opts_argument
from ..utils.signals import SIGNALS, TrainingStopped
from .scaling import scale_to_world_size
from .setup import config_of

# of a file or folder that is named, and that the user may not write, or that is of another kind
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# seconds in which the other processes may end by themselves, and after SIGTERM, once one has failed
GRACE = 20.0


@dataclass
class Place:
    """Where a process stands: its rank among all and on its machine, and their numbers."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def argument_parser(epilog=None):
    """A parser with Detectron2's options; ``--dist-url`` is only needed for several machines."""
    parser = argparse.ArgumentParser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    return add_opts_argument(add_launch_arguments(parser))


def launch(main, args):
    """Run ``main(args)`` in as many processes as the arguments, or torchrun's environment, ask for.

    Does not return where something fails: the program ends with one line ``error: ...`` and exit code 1, or with
    the traceback of the process that failed first. Under torchrun, it does not return at all.

    Args:
        main (callable): importable by name; takes ``args``.
        args (Namespace): of :func:`argument_parser`.
    """
    try:
        if all(x in os.environ for x in TORCHRUN) and os.environ["WORLD_SIZE"] != "1":
            _run_under_torchrun(main, args)
        elif args.num_gpus * args.num_machines > 1:
            _start_and_wait(main, args)
        else:
            main(args)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as e:
        if not (message := advice(e)):
            raise
        sys.exit(f"error: {message}")


def advice(error):
    """The message for an error that the user can correct; "" for others."""
    if isinstance(error, MICError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}: free some space, then continue with --resume. The checkpoints are unchanged."
    if isinstance(error, OSError) and error.filename and error.errno in NO_ACCESS:
        return f"{error.filename} cannot be used ({error.strerror}): check the path and its permissions."
    return ""


# ------------------------------------------------------------------------------------- our processes


def _start_and_wait(main, args):
    size, machines = args.num_gpus, args.num_machines
    if not 0 <= args.machine_rank < machines:
        raise ConfigError(f"--machine-rank is {args.machine_rank}: use 0 to {machines - 1}, one for each machine.")
    if machines > 1 and args.dist_url == "auto":
        raise ConfigError("--num-machines needs --dist-url tcp://HOST:PORT of the first machine, the same on all.")
    use_gpu = _settle(args, size, size * machines)
    url = args.dist_url
    if url == "auto":
        # held open here from now on: no other program can take the port in between
        store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        url = f"store:{store.port}"
    errors = mp.get_context("spawn").SimpleQueue()
    places = [Place(args.machine_rank * size + i, size * machines, i, size) for i in range(size)]
    # torch's own start makes the children end where this process is killed
    context = mp.start_processes(
        _child, (main, args, places, url, use_gpu, errors), nprocs=size, join=False, start_method="spawn"
    )
    code = _wait(context.processes)
    _report(errors, code)


def _child(index, main, args, places, url, use_gpu, errors):
    if not use_gpu and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(places)))  # all together have the cores once
    place = places[index]
    try:
        if url.startswith("store:"):
            store = dist.TCPStore("127.0.0.1", int(url.split(":")[1]), None, False)
        else:
            store = _meet(url, place)
        _join(store, place, use_gpu)
        main(args)
    except Exception as e:
        if message := advice(e):
            errors.put((True, message))
            _leave()
        name = f"process {place.rank} of {place.world_size} failed with {type(e).__name__}"
        errors.put((False, f"{traceback.format_exc()[-4000:]}error: {name}: {' '.join(str(e).split())[:300]}"))
        _leave()
    except TrainingStopped as e:  # all is saved, or cannot be
        _leave(e.code)
    except KeyboardInterrupt:
        _leave(128 + signal.SIGINT)
    finish()


def finish():
    """End this one of several processes, whose work is done, without the end of Python's interpreter.

    Gloo's threads may still free a tensor then (models and loggers keep the group alive), which aborts the process.
    """
    dist.destroy_process_group()
    atexit._run_exitfuncs()  # worker processes end, and the lock of the output folder goes
    _leave(0)


def _leave(code=1):
    """End now: the others may be in the middle of an exchange, which an orderly end would wait for."""
    logging.shutdown()  # writes what log.txt's buffer still holds
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(processes):
    """Wait for all; where one fails, end the others. Returns the exit code: the first that is not 0.

    Where a signal stopped them, it is that of the first signal: Ctrl-C may reach them as SIGTERM too.
    """
    received = []

    def forward(number, frame):
        received.append(number)
        _end(processes, "terminate")  # theirs to answer; a terminal sends them Ctrl-C itself, and this does no harm

    handlers = {n: signal.signal(n, forward) for n in SIGNALS}
    code, deadline, steps = 0, None, ["terminate", "kill"]
    try:
        while running := [p for p in processes if p.is_alive()]:
            multiprocessing.connection.wait([p.sentinel for p in running], timeout=1.0)
            code = code or next((p.exitcode for p in processes if p.exitcode), 0)
            if code and deadline is None:
                if received:  # the others lost a partner for good, and were asked to end before
                    steps = ["kill"]
                deadline = time.monotonic() + (GRACE / 2 if received else GRACE)
            if deadline is not None and time.monotonic() > deadline and steps:
                _end(processes, steps.pop(0))
                deadline = time.monotonic() + GRACE
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    codes = [p.exitcode for p in processes]
    code = code or next((c for c in codes if c), 0)
    # where one stopped in the middle of a step, the others may have failed for want of it
    return 128 + received[0] if received and any(128 + n in codes for n in SIGNALS) else code


def _end(processes, how):
    for p in processes:
        if p.is_alive():
            getattr(p, how)()


def _report(errors, code):
    """Exit with the message of the process that failed: what a user can put right comes before all else.

    Where one process fails, the others usually lose their connection to it and fail too.
    """
    if code in [128 + n for n in SIGNALS]:
        sys.exit(code)
    found = []
    while not errors.empty():
        found.append(errors.get())
    expected = [text for is_expected, text in found if is_expected]
    if expected:
        sys.exit(f"error: {expected[0]}")
    if code < 0:  # what the others say is that they lost their connection
        print(f"error: a process was ended by signal {-code} (9: where memory runs out).", file=sys.stderr)
        sys.exit(128 - code)
    if found:
        sys.exit(found[0][1])
    if code:
        sys.exit(code)


# ---------------------------------------------------------------------------------------- torchrun's


def _run_under_torchrun(main, args):
    try:
        rank, world_size, local_rank = (int(os.environ[x]) for x in TORCHRUN)
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    except (KeyError, ValueError) as e:
        names = ", ".join(TORCHRUN)
        raise ConfigError(f"the environment variables {names} must be whole numbers, as of torchrun ({e}).") from e
    if args.num_gpus != 1 or args.num_machines != 1:
        raise ConfigError("torchrun starts the processes: leave --num-gpus and --num-machines out.")
    place = Place(rank, world_size, local_rank, local_size)
    use_gpu = _settle(args, local_size, world_size)
    store = _meet("env://", place)
    _join(store, place, use_gpu)
    try:
        main(args)
    except Exception as e:
        if not (message := advice(e)):
            raise
        # all processes may have met the same error: one reports it
        if store.add("mic_det/errors", 1) == 1:
            print(f"error: {message}", file=sys.stderr)
        _leave()
    except TrainingStopped as e:
        _leave(e.code)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        _leave(128 + signal.SIGINT)
    finish()


# --------------------------------------------------------------------------------------------- both


def _settle(args, local_size, world_size):
    """Whether the processes of this machine train on GPUs; writes ``MODEL.DEVICE`` into ``args`` for all of them.

    Raises:
        ConfigError: where there are fewer GPUs than processes, a batch cannot be divided, or the config is wrong:
            told once, before any process is started.
    """
    cfg = config_of(args)
    if not args.eval_only:
        scale_to_world_size(cfg, world_size)
    device = cfg.MODEL.DEVICE
    args.opts = [*args.opts, "MODEL.DEVICE", device]
    if not device.startswith("cuda"):
        return False
    if local_size > torch.cuda.device_count():
        raise ConfigError(
            f"{local_size} processes were asked for, but this machine has {torch.cuda.device_count()} usable GPUs: "
            "lower --num-gpus, or set MODEL.DEVICE cpu."
        )
    return True


def _meet(url, place):
    try:
        return next(dist.rendezvous(url, place.rank, place.world_size, timeout=DEFAULT_TIMEOUT))[0]
    except (OSError, RuntimeError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise ConfigError(f"process {place.rank} cannot meet the others at {url} ({reason}): check --dist-url.") from e


def _join(store, place, use_gpu):
    """Make the process groups that Detectron2 and DistributedDataParallel talk through."""
    if use_gpu:
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group(
        "nccl" if use_gpu else "gloo", store=dist.PrefixStore("mic_det", store), rank=place.rank,
        world_size=place.world_size, timeout=DEFAULT_TIMEOUT,
    )  # fmt: skip
    comm.create_local_process_group(place.local_size)
    comm.synchronize()
