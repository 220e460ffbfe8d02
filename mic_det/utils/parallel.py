"""Many independent jobs on all cores, with a progress bar, and files that are whole or absent."""

import contextlib
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cv2

from ..errors import WorkerError
from .atomic_files import write_whole
from .progress import progress_bar


def run_parallel(function, jobs, workers=None, description=None, progress=True, unit="image"):
    """Call ``function`` on each job and return the results, in the order of the jobs.

    Args:
        function (callable): a module's function of one job; both must be picklable.
        jobs (sequence): its arguments.
        workers (int): processes; None = one a core, but one for 8 jobs, as each takes seconds to start; 1 = in this
            process.
        description (str), progress (bool), unit (str): of the progress bar.

    Raises:
        WorkerError: where a worker process was killed. Errors of ``function`` come through as they are.
    """
    jobs = list(jobs)
    if workers is None:
        workers = min(os.cpu_count() or 1, len(jobs) // 8)
    workers = max(min(workers, len(jobs)), 1)
    with progress_bar(len(jobs), unit, description, progress) as bar:
        if workers == 1:
            return [_counted(bar, function(job)) for job in jobs]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            try:
                with _interrupts_held_back():
                    done = pool.map(function, jobs, chunksize=4)
                return [_counted(bar, answer) for answer in done]
            except BrokenProcessPool as e:
                raise WorkerError(
                    "a worker process ended early: run with one worker (in a script of your own, "
                    'call this below `if __name__ == "__main__":`).'
                ) from e
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _counted(bar, answer):
    bar.update()
    return answer


@contextlib.contextmanager
def _interrupts_held_back():
    """Ctrl-C reaches this process afterwards, and processes started here never: this one stops them after their job."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # not ignored: it would be lost here, and starting processes takes seconds
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def write_bytes(path, content):
    """Write a file whole or not at all, also where several processes write the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda f: f.write(content))


def write_png(path, image):
    """Write (H, W) or (H, W, 3) BGR pixels as a PNG file, whole or not at all.

    Raises:
        OSError: where it cannot be encoded or written.
    """
    ok, data = cv2.imencode(".png", image)
    if not ok:
        raise OSError(f"cannot encode {path}")
    write_bytes(path, data.tobytes())
