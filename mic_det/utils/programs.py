"""What every program does first: text is UTF-8 whatever the locale, and names cannot steer the terminal or the log."""

import locale
import logging
import os
import re
import sys

from .printable import printable

# what messages may have of control characters: line breaks, tabs, and the colours that Detectron2 gives to text
KEPT = re.compile(r"(\x1b\[[0-9;]*m|[\n\t])")
LOGGERS = ("detectron2", "fvcore", "mic_det")


def start_program():
    """Call it before anything else is done.

    Where the locale's encoding is not UTF-8, the program is started again in Python's UTF-8 mode: Detectron2 and
    pycocotools open configs, annotations and logs in the locale's encoding, and would read other names.
    """
    encoding = locale.getpreferredencoding(False).lower().replace("-", "").replace("_", "")
    if encoding != "utf8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"  # of processes that are started from here, too
        sys.stdout.flush()
        sys.stderr.flush()
        arguments = getattr(sys, "orig_argv", [sys.executable, *sys.argv])[1:]  # 3.9 does not know the options
        os.execv(sys.executable, [sys.executable, *arguments])
    logging.lastResort.addFilter(PRINTABLE)


def keep_logs_printable():
    """Escape control characters in what the loggers' handlers write; call it when there are handlers."""
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(PRINTABLE)


class PrintableRecords(logging.Filter):
    """Names in log messages are shown as :func:`~mic_det.utils.printable.printable` shows them."""

    def filter(self, record):
        if isinstance(record.args, dict):
            record.args = {k: _argument(v) for k, v in record.args.items()}
        elif record.args:
            record.args = tuple(map(_argument, record.args))
        if isinstance(record.msg, str) and not record.msg.isprintable():
            # every second part is one of those that are kept
            parts = KEPT.split(record.msg)
            record.msg = "".join(x if i % 2 else printable(x) for i, x in enumerate(parts))
        return True


def _argument(value):
    return _Printable(value) if isinstance(value, (str, os.PathLike, BaseException)) else value


class _Printable:
    """Stands for a value that may be shown by ``%s`` or ``%r``."""

    def __init__(self, value):
        self.value = value

    def __str__(self):
        return printable(self.value)

    def __repr__(self):
        return repr(self.value)


PRINTABLE = PrintableRecords()
