"""The progress of a training in another process."""

import json

from ...utils.progress import progress_bar


class Progress:
    """A bar of optimizer steps, read from the ``metrics.json`` that the training writes every 20 steps."""

    def __init__(self, file, steps):
        self.file, self.steps, self.bar = file, steps, progress_bar(steps, "step")
        self.note = ""

    def __enter__(self):
        self.bar.__enter__()
        self.update()
        return self

    def __exit__(self, kind, *error):
        if kind is None:
            self.bar.move_to(self.steps, self.note)
        self.bar.__exit__(kind, *error)

    def update(self):
        """Move the bar to the last step that is in the file."""
        last = self._last_line()
        if "total_loss" in last:
            self.note = f"loss={last['total_loss']:.3f}"
        self.bar.move_to(min(self.steps, int(last.get("iteration", -1)) + 1), self.note)

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
