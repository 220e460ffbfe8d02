"""metrics.json and TensorBoard events of a run that may be killed and resumed: each step once. And other writers."""

import contextlib
import itertools
import json
import os

from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter, get_event_storage

from ..checkpoint.storage import write_atomically
from ..errors import CheckpointError
from .event_files import rewind_events

WINDOW = 20  # steps over which Detectron2's writers take the median
# of each process alone, from its fourth step on: in a shorter life an old value would make a row of its own
UNSTEADY = "time"


class MetricsFile(JSONWriter):
    """Detectron2's metrics.json, which can be taken back to what it was when a checkpoint was written."""

    def __init__(self, json_file):
        super().__init__(json_file, WINDOW)
        self.path = json_file

    def write(self):
        try:
            super().write()
        except OSError as e:
            raise CheckpointError(
                f"cannot write {self.path} ({e.strerror}). The checkpoints are unchanged. Free some space, then "
                "continue with --resume."
            ) from e

    def size(self):
        """Bytes written so far."""
        return os.path.getsize(self.path)

    def rewind(self, start, size=None, keep_results=False):
        """Drop what was written after a checkpoint, as its steps are done again.

        Args:
            start (int): the step that comes next, counted from 0.
            size (int): what :meth:`size` was. Where it is not known or does not fit, rows of later steps go.
            keep_results (bool): keep the evaluation of a run that had ended and is now made longer.

        Returns:
            int: the last step that was written before the checkpoint; -1 where none was.
        """
        with open(self.path, "rb") as f:
            content = f.read()
        if size is not None and size <= len(content) and content[:size][-1:] in (b"", b"\n"):
            kept, tail = content[:size], content[size:].splitlines(keepends=True)
        else:
            kept, tail = b"".join(x for x in content.splitlines(keepends=True) if _step(x, start) < start), []
        results = [x for x in tail if keep_results and _step(x) == start and x.endswith(b"\n")]
        new = kept + b"".join(results)
        if new != content:
            self._file_handle.close()
            write_atomically(self.path, lambda f: f.write(new))
            self._file_handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - JSONWriter's, which closes it
        self._last_write = max(map(_step, kept.splitlines()), default=-1)
        return self._last_write


def _step(line, default=-1):
    with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return int(json.loads(line)["iteration"])
    return default


class Events(TensorboardXWriter):
    """Detectron2's TensorBoard events; those of steps that are done again give way to the new ones."""

    def rewind(self, last_step, start, keep_results=False):
        """See :func:`rewind_events`."""
        folder = self._writer_args["log_dir"]
        self._writer_args["purge_step"] = rewind_events(folder, last_step, start, keep_results)
        self._last_write = last_step

    def write_pictures(self):
        """Write pictures and histograms of steps whose scalars are not written yet: a checkpoint does not hold them."""
        storage = get_event_storage()
        for name, image, step in storage._vis_data:
            self._writer.add_image(name, image, step)
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        if storage._vis_data or storage._histograms:
            self._writer.flush()
        storage.clear_images()
        storage.clear_histograms()


class RunWriter(PeriodicWriter):
    """Detectron2's hook that writes what is logged, which continues as if the run had never been stopped.

    Its state, in each checkpoint: the values of the last steps, whose medians are written next, and how long
    metrics.json was.
    """

    def __init__(self, output_dir, max_iter, period=20, trackers=()):
        """
        Args:
            output_dir (str): None in processes that do not write.
            trackers (sequence of Tracker): more writers, started before the first step.
        """
        self.trackers = list(trackers) if output_dir is not None else []
        writers = []
        if output_dir is not None:
            os.makedirs(output_dir, exist_ok=True)
            self.metrics, self.events = MetricsFile(os.path.join(output_dir, "metrics.json")), Events(output_dir)
            # the last one clears the storage's pictures
            writers = [CommonMetricPrinter(max_iter), self.metrics, *self.trackers, self.events]
        super().__init__(writers, period)
        self.writes = bool(writers)
        self._resumed = None

    def state_dict(self):
        storage = getattr(self.trainer, "storage", None)  # there is none before a training
        if storage is None or not self.writes:
            return {}
        with contextlib.suppress(AssertionError):  # outside a training
            for writer in (*self.trackers, self.events):
                writer.write_pictures()
        done = self.trainer.iter
        least = done - max(WINDOW, self._period)  # what is older has been written
        values = {}
        for name, history in storage.histories().items():
            if name == UNSTEADY:
                continue
            # a step that failed has logged values too, which do not count
            newest_first = itertools.dropwhile(lambda x: x[1] > done, reversed(history.values()))
            latest = next(newest_first, (None, least))
            if latest[1] > least:
                recent = itertools.takewhile(lambda x: x[1] > latest[1] - WINDOW, newest_first)  # noqa: B023
                values[name] = (storage.smoothing_hints()[name], [latest, *recent][::-1])
        return {"values": values, "metrics_size": self.metrics.size(), "max_iter": self.trainer.max_iter}

    def load_state_dict(self, state_dict):
        self._resumed = state_dict

    def before_train(self):
        start, last = self.trainer.start_iter, -1
        if not self.writes:
            return
        if start:
            last = self._rewind(start)
        for tracker in self.trackers:
            tracker.start(start, last)

    def after_train(self):
        for tracker in self.trackers:
            tracker.ended = self.trainer.iter >= self.trainer.max_iter
        super().after_train()

    def _rewind(self, start):
        """Put back what was logged before step ``start``; returns the last step that was written."""
        state, self._resumed = self._resumed or {}, None
        for name, (smoothed, values) in state.get("values", {}).items():
            for value, step in values:
                self.trainer.storage.put_scalar(name, value, smoothing_hint=smoothed, cur_iter=step)
        longer = state.get("max_iter") == start < self.trainer.max_iter
        last = self.metrics.rewind(start, state.get("metrics_size"), keep_results=longer)
        self.events.rewind(last, start, keep_results=longer)
        return last
