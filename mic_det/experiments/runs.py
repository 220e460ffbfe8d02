"""The commands of ``mic-det`` as processes of their own."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from ..errors import RunError
from ..utils.printable import printable

PROGRAM = (sys.executable, "-m", "mic_det_console")


def run_program(command, *args, log=None, threads=None):
    """Run a command of ``mic-det`` as a process of its own from the current folder, to its end.

    Args:
        command (str): e.g. "train".
        args (str or path): its arguments.
        log (path): file that its output is added to; None shows it.
        threads (int): that its arithmetic may use; None = as many as there are cores.

    Raises:
        RunError: where it fails.
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
        done = subprocess.run([*PROGRAM, *command], env=env)
    else:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as out:
            out.write(f"\n{line}\n".encode())
            out.flush()
            done = subprocess.run([*PROGRAM, *command], env=env, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        where = f"{log}: the program" if log else "the command above"
        raise RunError(f"{where} ended with exit code {done.returncode}; the same call continues from here.")


def train(config_file, output, opts=(), **how):
    """``mic-det train`` into a folder, from where an earlier call stopped; ``how`` goes to :func:`run_program`."""
    run_program("train", "--config-file", config_file, "--resume", *opts, "OUTPUT_DIR", output, **how)
