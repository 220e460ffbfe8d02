"""A bar of progress; without tqdm, which small environments lack, a count on lines of its own."""

import sys


def progress_bar(total, unit, description=None, shown=True):
    """A context manager whose value has ``update()``, ``move_to(done, note)`` and ``write(text, file)``.

    Args:
        total (int), unit (str): "image" for a count of images.
        description (str): text before the bar.
        shown (bool): False = nothing is printed but what ``write`` gets.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return _Count(total, unit, shown)
    return _Bar(tqdm(total=total, unit=unit, desc=description, disable=not shown))


class _Bar:
    def __init__(self, bar):
        self.bar = bar
        self.update = bar.update

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def move_to(self, done, note=""):
        """Set the count, and a short text behind the bar."""
        if self.bar.disable:
            return
        self.bar.set_postfix_str(note, refresh=False)
        moved, self.bar.n = done != self.bar.n, done
        if moved or self.bar.fp.isatty():  # a log file needs no new line where nothing has changed
            self.bar.refresh()

    def write(self, text, file):
        self.bar.write(text, file=file)


class _Count:
    EVERY = 50

    def __init__(self, total, unit, shown=True):
        self.total, self.unit, self.shown, self.done = total, unit, shown, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self):
        self.move_to(self.done + 1)

    def move_to(self, done, note=""):
        """Set the count. A line is printed each time that it has passed a multiple of 50."""
        passed, self.done = done // self.EVERY > self.done // self.EVERY, done
        if passed and self.shown:
            print(f"{done}/{self.total} {self.unit}s{note and ', '}{note}", file=sys.stderr)

    @staticmethod
    def write(text, file):
        print(text, file=file)
