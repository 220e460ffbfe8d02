"""A bar of progress; without tqdm, which small environments lack, a count on lines of its own."""

import contextlib
import sys


def progress_bar(total, unit):
    """A context manager whose value has tqdm's ``update()`` and ``write(text, file)``."""
    try:
        from tqdm import tqdm
    except ImportError:
        return contextlib.nullcontext(_Count(total, unit))
    return tqdm(total=total, unit=unit)


class _Count:
    EVERY = 50

    def __init__(self, total, unit):
        self.total, self.unit, self.done = total, unit, 0

    def update(self):
        self.done += 1
        if self.done % self.EVERY == 0:
            print(f"{self.done}/{self.total} {self.unit}s", file=sys.stderr)

    @staticmethod
    def write(text, file):
        print(text, file=file)
