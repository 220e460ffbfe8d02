"""The checkout's programs as processes of their own."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from ..errors import RunError
from ..utils.printable import printable

ROOT = Path(__file__).resolve().parents[2]  # of the checkout: its programs lie beside the package


def run_program(program, *args, log=None, threads=None):
    """Run one of the checkout's Python programs from the current folder, to its end.

    Args:
        program (str): its path in the checkout, e.g. "tools/train_net.py".
        args (str or path): its arguments.
        log (path): file that its output is added to; None shows it.
        threads (int): that its arithmetic may use; None = as many as there are cores.

    Raises:
        RunError: where it fails.
    """
    command = [os.path.relpath(ROOT / program), *map(str, args)]
    env = dict(os.environ)
    # waiting threads that spin would take the cores from whatever else runs on a shared machine
    env.setdefault("OMP_WAIT_POLICY", "passive")
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    line = f"$ python {shlex.join(command)}"
    if log is None:
        print(f"\n{printable(line)}", flush=True)
        done = subprocess.run([sys.executable, *command], env=env)
    else:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as out:
            out.write(f"\n{line}\n".encode())
            out.flush()
            done = subprocess.run([sys.executable, *command], env=env, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        where = f"{log}: the program" if log else "the command above"
        raise RunError(f"{where} ended with exit code {done.returncode}; the same command continues from here.")


def train(config_file, output, opts=(), **how):
    """tools/train_net.py into a folder, from where an earlier call stopped; ``how`` goes to :func:`run_program`."""
    run_program("tools/train_net.py", "--config-file", config_file, "--resume", *opts, "OUTPUT_DIR", output, **how)
