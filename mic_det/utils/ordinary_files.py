"""Opening files as users have them: only ordinary ones, and text in UTF-8."""

import errno
import os
import stat
from pathlib import Path

KINDS = (
    (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


class NotOrdinary(OSError):
    """Something in the place of a file that is none: reading it may wait for ever, or do something else."""

    def __init__(self, message):
        super().__init__(message)
        self.strerror = message


def check_ordinary(path):
    """
    Raises:
        NotOrdinary: for pipes, sockets and devices; names the kind.
        OSError: for folders, where there is nothing, or nothing can be known of it.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):  # as opening it would say
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in KINDS if test(mode)), "something else")
        raise NotOrdinary(f"{path} is {kind}, not an ordinary file")


def is_ordinary(path):
    """Whether there is an ordinary file, or a link to one."""
    return not absence(path)


def absence(path):
    """ "is missing" or "is a pipe, not an ordinary file"; "" where there is an ordinary file."""
    try:
        check_ordinary(path)
    except NotOrdinary as e:
        return str(e)[len(str(path)) + 1 :]
    except (OSError, ValueError) as e:  # a NUL in the name
        return "is missing" if isinstance(e, FileNotFoundError) else f"cannot be read ({getattr(e, 'strerror', e)})"
    return ""


def open_text(path, mode="r", **kwargs):
    """``open`` for text, in UTF-8 whatever the locale; what is read must be an ordinary file."""
    if "r" in mode:
        check_ordinary(path)
    return open(path, mode, encoding="utf-8", **kwargs)


def read_text(path, errors="strict"):
    """The text of an ordinary file, in UTF-8."""
    with open_text(path, errors=errors) as f:
        return f.read()


def read_bytes(path):
    """The content of an ordinary file."""
    check_ordinary(path)
    return Path(path).read_bytes()


def open_picture(path):
    """PIL's ``Image.open`` of an ordinary file, or of what has one's content."""
    from PIL import Image  # not where a .onnx file is run: there is no Pillow

    if not hasattr(path, "read"):
        check_ordinary(path)
    return Image.open(path)
