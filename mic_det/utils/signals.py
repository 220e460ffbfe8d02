"""SIGTERM and Ctrl-C: a training ends its step, saves and stops; exit codes say so."""

import contextlib
import logging
import os
import signal
import threading
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TICK = 0.5  # seconds between two looks whether a stretch may be left
PATIENCE = 2.5  # seconds that a batch may still take after a signal: it usually comes, and the step ends in order

_stretches = []  # (begin, patience) of the interruptible stretches that the main thread is in


class TrainingStopped(SystemExit):
    """A signal stopped the training, and what it had is saved. Its exit code is 128 + the signal's number."""

    def __init__(self, signum):
        super().__init__(128 + signum)
        self.signum = signum


@contextlib.contextmanager
def interruptible(patience=0.0):
    """A stretch of the main thread that a :class:`StopRequest` leaves by :class:`TrainingStopped`, at any point in it.

    For what may take long or for ever, and changes nothing that a checkpoint holds. Elsewhere a signal is only noted.

    Args:
        patience (float): seconds that it may go on after the signal or, if that was before it, after its begin.
    """
    _stretches.append((time.monotonic(), patience))
    try:
        yield
    finally:
        _stretches.pop()


@contextlib.contextmanager
def ends_in_order():
    """For programs that save what they have in ``finally``: SIGTERM and Ctrl-C end the block by ``SystemExit``."""

    def end(signum, frame):
        raise SystemExit(128 + signum)

    previous = {s: signal.signal(s, end) for s in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


class StopRequest:
    """Notes that SIGTERM or SIGINT came in, so that the step in progress can be finished.

    A second SIGINT (Ctrl-C) raises KeyboardInterrupt at once. In a distributed training all processes
    stop after the same step: whoever got a signal tells the others in :meth:`agreed`. Where the main thread is in an
    :func:`interruptible` stretch, it is taken out of it.
    """

    def __init__(self):
        self.signum = 0  # of the first signal
        self._interrupted, self._time = False, 0.0
        self._previous, self._pid = {}, os.getpid()

    def install(self):
        """Handle the signals until :meth:`remove`; outside the main thread, where Python cannot, do nothing."""
        if threading.current_thread() is threading.main_thread() and not self._previous:
            self._previous = {s: signal.signal(s, self._note) for s in SIGNALS}
            if hasattr(signal, "SIGALRM"):  # not on Windows
                self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._tick)

    def remove(self):
        if hasattr(signal, "SIGALRM") and signal.SIGALRM in self._previous:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._previous.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _note(self, signum, frame):
        if os.getpid() != self._pid:  # a worker process, which takes its parent's handlers over
            return
        if signum == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= signum == signal.SIGINT
        first, self.signum = not self.signum, self.signum or signum
        name, again = signal.Signals(signum).name, " A second Ctrl-C stops at once." * (signum == signal.SIGINT)
        what = "the evaluation is left" if _stretches and not _stretches[-1][1] else "saving at the end of this step"
        logging.getLogger(__name__).warning("%s: %s.%s", name, what, again)
        if first:
            self._time = time.monotonic()
            if hasattr(signal, "SIGALRM"):  # a wait that begins later, or goes on, must end too
                signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
        self._leave()

    def _tick(self, signum, frame):
        if os.getpid() == self._pid:
            self._leave()

    def _leave(self):
        for begin, patience in _stretches[-1:]:
            if time.monotonic() >= max(self._time, begin) + patience:
                raise TrainingStopped(self.signum)

    def agreed(self):
        """The number of the signal that any process got, 0 where none did. All processes must call this."""
        from detectron2.utils import comm  # not where a .onnx file is run

        if comm.get_world_size() == 1:
            return self.signum
        return max(comm.all_gather(self.signum))
