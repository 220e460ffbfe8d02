"""tools/train_net.py in processes that start at once: forked from one that has imported everything, but run nothing.

Python and torch take seconds to start, which would be most of a short life.
"""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from pathlib import Path

TRAIN_NET = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"


class ForkServer:
    """Starts ``train_net.py`` with arguments; its processes can be sent signals and waited for."""

    def __init__(self):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-W", "ignore", __file__], env=env, text=True, **pipes)

    def _ask(self, **question):
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(self, *args, log, limit=None, group=None):
        """Returns the process id.

        Args:
            log (path): what it prints is appended to it.
            limit (int): bytes of a file, at most.
            group (tuple): (file, rank, world size) where it is one of several processes of a training.
        """
        return self._ask(args=list(map(str, args)), log=str(log), limit=limit, group=group)

    def wait(self, pid, block=True):
        """Exit code, negative for a signal; None while it runs, where ``block`` is False."""
        return self._ask(pid=pid, block=block)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def serve():
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing else may write where answers are read
    running = set()
    for line in sys.stdin:
        question = json.loads(line)
        if "args" in question:
            answer = os.fork()
            if answer == 0:
                live(question)
            running.add(answer)
        else:
            pid, status = os.waitpid(question["pid"], 0 if question["block"] else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
            running.discard(pid)
        os.write(answers, (json.dumps(answer) + "\n").encode())
    for pid in running:  # the tests were ended in their midst
        os.kill(pid, signal.SIGKILL)


def join(file, rank, world_size):
    """What Detectron2's launch does in each of its processes."""
    import torch.distributed
    from detectron2.utils import comm

    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world_size)
    comm.create_local_process_group(world_size)


def live(question):
    """The rest of a forked process."""
    code = 70
    try:
        log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for here, there in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(here, there)
        if question["limit"]:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (question["limit"], question["limit"]))
        if question["group"]:
            join(*question["group"])
        sys.argv = [str(TRAIN_NET), *question["args"]]
        runpy.run_path(str(TRAIN_NET), run_name="__main__")
        code = 0
    except SystemExit as e:  # as Python itself does
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import torch
    from detectron2.utils.collect_env import collect_env_info
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401 - what every life needs

    import mic_det.engine.setup
    import mic_det.engine.trainer  # noqa: F401

    collect_env_info()
    torch.set_num_threads(1)
    serve()
    os._exit(0)
