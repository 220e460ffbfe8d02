"""The progress of a training in another process."""

import json

from tqdm import tqdm


class Progress:
    """A bar of optimizer steps, read from the ``metrics.json`` that the training writes every 20 steps."""

    def __init__(self, file, steps):
        self.file, self.steps, self.bar = file, steps, None

    def __enter__(self):
        self.bar = tqdm(total=self.steps, unit="step")
        self.update()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self._move(self.steps)
        self.bar.close()

    def update(self):
        """Move the bar to the last step that is in the file."""
        last = self._last_line()
        if "total_loss" in last:
            self.bar.set_postfix(loss=f"{last['total_loss']:.3f}", refresh=False)
        self._move(min(self.steps, int(last.get("iteration", -1)) + 1))

    def _move(self, step):
        moved, self.bar.n = step != self.bar.n, step
        if moved or self.bar.fp.isatty():  # a log file needs no new line where nothing has changed
            self.bar.refresh()

    def _last_line(self):
        """The last complete line. The training may be writing the next one."""
        try:
            lines = self.file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return {}
        for line in reversed(lines[-3:]):
            try:
                return dict(json.loads(line))
            except ValueError:
                continue
        return {}
