"""Files that are written whole or not at all: the one place where a file takes the place of another."""

import contextlib
import os
from pathlib import Path


@contextlib.contextmanager
def whole_file(path, temporary=None):
    """A path to write to, which becomes ``path`` at the end of the block, once it is safe on the disk.

    Whoever opens ``path`` sees the old content or the new one, after a power failure too. Several processes may write
    the same ``path``. Where the block fails, the old file is as it was, and nothing else is left.

    Args:
        path (path): in a folder that exists.
        temporary (path): beside it; by default a hidden name of this process, with the same suffix.

    Raises:
        OSError: where the disk refuses it; names ``path``.
    """
    path = Path(path)
    temporary = Path(temporary or path.with_name(f".{path.stem[:100]}.{os.getpid()}.tmp{path.suffix}"))
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # makes the new name last; some file systems cannot
            _sync(path.parent)
    except OSError as e:
        if e.filename in (temporary, str(temporary)):  # a name that tells a user nothing
            e.filename, e.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_whole(path, write, temporary=None):
    """Call ``write`` with the binary file that becomes ``path``; see :func:`whole_file`."""
    with whole_file(path, temporary) as file, open(file, "wb") as f:
        write(f)


def disk_error(error):
    """The OSError behind an error, or None: torch replaces it by one of its own when it closes an archive."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
