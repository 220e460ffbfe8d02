"""TensorBoard's event files of a run that is resumed: what is done again is taken out, and order is kept.

A file is a row of records: length (8 bytes), its checksum (4), an ``Event``, its checksum (4).
"""

import glob
import os
import re
import struct
import time

from ..checkpoint.storage import write_atomically

PREFIX = "events.out.tfevents."
HEAD, TAIL = 12, 4  # bytes around an event


def event_files(folder):
    """Paths in the order in which TensorBoard reads them."""
    return sorted(f for f in glob.glob(os.path.join(glob.escape(folder), f"{PREFIX}*")) if os.path.isfile(f))


def rewind_events(folder, last_step, start, keep_results=False):
    """Leave of all event files what was written before a checkpoint.

    Args:
        folder (str): where the files are.
        last_step (int): the last step whose scalars were written before the checkpoint.
        start (int): the step that comes next. Pictures and histograms of earlier ones are written with a checkpoint.
        keep_results (bool): keep scalars of step ``start``: the evaluation of a run that had ended.

    Returns:
        int: TensorBoard's purge step: viewers that are open drop what they have read from it on.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    purge = last_step + 1
    for file in event_files(folder):
        with open(file, "rb") as f:
            content = f.read()
        kept, has_steps = [], False
        for record in _records(content):
            event = Event.FromString(record[HEAD:-TAIL])
            if not event.HasField("summary"):
                kept.append(record)
                continue
            scalar = all(_is_scalar(v) for v in event.summary.value)
            result = scalar and keep_results and event.step == start
            if event.step <= last_step or (not scalar and event.step < start) or result:
                kept.append(record)
                has_steps = True
                purge = max(purge, event.step + 1)
        new = b"".join(kept)
        if not has_steps and kept:
            os.remove(file)
        elif new != content and kept:
            write_atomically(file, lambda f, new=new: f.write(new))
    _order_before_now(folder)
    return purge


def _is_scalar(value):
    # newer writers store scalars as tensors
    return value.WhichOneof("value") in ("simple_value", "tensor") and value.metadata.plugin_data.plugin_name in (
        "",
        "scalars",
    )


def _records(content):
    """The whole records of a file; what a process that was killed had begun is left out."""
    at = 0
    while at + HEAD <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        end = at + HEAD + length + TAIL
        if end > len(content):
            return
        yield content[at:end]
        at = end


def _order_before_now(folder):
    """TensorBoard reads files in the order of their names, which begin with the time: earlier lives come first.

    Without this, a clock that was set back makes the file that is written next come before them.
    """
    now, files = int(time.time()), event_files(folder)
    times = [re.match(rf"{re.escape(PREFIX)}(\d+)", os.path.basename(f)) for f in files]
    if not any(t and int(t[1]) >= now for t in times):
        return
    for i, (file, found) in enumerate(zip(files, times)):
        if found and int(found[1]) >= now - 1:
            rest = os.path.basename(file)[found.end() :]
            os.replace(file, os.path.join(folder, f"{PREFIX}{now - 1:010d}.{i:06d}{rest}"))
