"""``mic-det adapt`` in the process of a test."""

from helpers.data import forget_registered_sets, keep_loggers
from mic_det.cli import program


def adapt(*argv):
    """The command in this process; returns its exit code, or the text that it ends with."""
    with forget_registered_sets(), keep_loggers():
        try:
            return program.run("adapt", list(map(str, argv)), "mic-det adapt") or 0
        except SystemExit as e:
            return e.code
