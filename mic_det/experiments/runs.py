"""The commands of ``mic-det`` as processes of their own."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

from ..errors import RunError
from ..utils.printable import printable
from ..utils.signals import SIGNALS, TrainingStopped

PROGRAM = (sys.executable, "-m", "mic_det_console")


def run_program(command, *args, log=None, threads=None, tick=None):
    """Run a command of ``mic-det`` as a process of its own from the current folder, to its end.

    Args:
        command (str): e.g. "train".
        args (str or path): its arguments.
        log (path): file that its output is added to; None shows it.
        threads (int): that its arithmetic may use; None = as many as there are cores.
        tick (callable): called every second as long as it runs.

    Raises:
        RunError: where it fails.
        TrainingStopped: once the program has ended, where SIGTERM or Ctrl-C came in.
    """
    command = [command, *map(str, args)]
    env = dict(os.environ)
    # waiting threads that spin would take the cores from whatever else runs on a shared machine
    env.setdefault("OMP_WAIT_POLICY", "passive")
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    line = f"$ mic-det {shlex.join(command)}"
    if log is None:
        print(f"\n{printable(line)}", flush=True)
        code = _run([*PROGRAM, *command], tick, env=env)
    else:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as out:
            out.write(f"\n{line}\n".encode())
            out.flush()
            code = _run([*PROGRAM, *command], tick, env=env, stdout=out, stderr=subprocess.STDOUT)
    if code:
        where = f"{log}: the program" if log else "the command above"
        reason = f" ({_last_error(log)})" if log and _last_error(log) else ""
        raise RunError(f"{where} ended with exit code {code}{reason}; the same command continues from here.")


def _last_error(log):
    """The line that a program ended with, or ""."""
    lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines[-20:]) if line.startswith("error: ")), "")


def _run(command, tick=None, **kwargs):
    """The exit code of a process, which is given the time to save what it has where a signal ends this one.

    Raises:
        TrainingStopped: once the process has ended, where SIGTERM or Ctrl-C came in.
    """
    received = []
    process = subprocess.Popen(command, **kwargs)

    def forward(number, frame):
        received.append(number)
        process.terminate()  # a terminal sends it Ctrl-C itself, and this does no harm

    is_main = threading.current_thread() is threading.main_thread()
    handlers = {n: signal.signal(n, forward) for n in SIGNALS} if is_main else {}
    try:
        while (code := _wait(process)) is None:
            if tick:
                tick()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise TrainingStopped(received[0])
    return code


def _wait(process, seconds=1.0):
    """The exit code; None where the process still runs after so long."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def train(config_file, output, opts=(), **how):
    """``mic-det train`` into a folder, from where an earlier call stopped; ``how`` goes to :func:`run_program`."""
    run_program("train", "--config-file", config_file, "--resume", *opts, "OUTPUT_DIR", output, **how)
