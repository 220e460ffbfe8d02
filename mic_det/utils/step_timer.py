"""Names for the parts of a training step, so that their cost can be measured from outside."""

import contextlib
import time

import torch

_stopwatch = None


class StepTimer:
    """Seconds spent in each :func:`record` while the stopwatch runs (``with StepTimer() as watch``).

    A section's seconds are its own: those of a section inside it do not count twice. On a GPU, the work that was
    started is waited for at both ends of each section, so the parts are exact but the whole is slower.

    Attributes:
        seconds (dict[str, float]): by name of section.
    """

    def __init__(self):
        self.seconds = {}
        self._inner = []  # for each open section, seconds of the sections in it

    def __enter__(self):
        global _stopwatch
        _stopwatch = self
        return self

    def __exit__(self, *_):
        global _stopwatch
        _stopwatch = None

    @contextlib.contextmanager
    def measure(self, name):
        start = _now()
        self._inner.append(0.0)
        try:
            yield
        finally:
            elapsed = _now() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed


def _now():
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def record(name):
    """Mark a part of the step: ``mic_det/NAME`` in traces of ``torch.profiler``, and for a :class:`StepTimer`."""
    with torch.profiler.record_function(f"mic_det/{name}"):
        if _stopwatch is None:
            yield
        else:
            with _stopwatch.measure(name):
                yield
