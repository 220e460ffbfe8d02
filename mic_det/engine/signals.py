"""SIGTERM and Ctrl-C: a training ends its step, saves and stops; exit codes say so."""

import logging
import os
import signal
import threading

from detectron2.utils import comm

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TrainingStopped(SystemExit):
    """A signal stopped the training, and what it had is saved. Its exit code is 128 + the signal's number."""

    def __init__(self, signum):
        super().__init__(128 + signum)
        self.signum = signum


class StopRequest:
    """Notes that SIGTERM or SIGINT came in, so that the step in progress can be finished.

    A second SIGINT (Ctrl-C) raises KeyboardInterrupt at once. In a distributed training all processes
    stop after the same step: whoever got a signal tells the others in :meth:`agreed`.
    """

    def __init__(self):
        self.signum = 0  # of the first signal
        self._interrupted = False
        self._previous, self._pid = {}, os.getpid()

    def install(self):
        """Handle the signals until :meth:`remove`; outside the main thread, where Python cannot, do nothing."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._note) for s in SIGNALS}

    def remove(self):
        for signum, handler in self._previous.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _note(self, signum, frame):
        if os.getpid() != self._pid:  # a worker process, which takes its parent's handlers over
            return
        if signum == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= signum == signal.SIGINT
        self.signum = self.signum or signum
        name, again = signal.Signals(signum).name, " Once more stops at once." * (signum == signal.SIGINT)
        logging.getLogger(__name__).warning("%s: saving a checkpoint at the end of this step.%s", name, again)

    def agreed(self):
        """The number of the signal that any process got, 0 where none did. All processes must call this."""
        if comm.get_world_size() == 1:
            return self.signum
        return max(comm.all_gather(self.signum))
