"""Which files of a folder count: one rule for data sets, checks, prediction and fog."""

import json
import os
from pathlib import Path

from ..errors import DataError
from ..utils.ordinary_files import read_text

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}


def is_hidden(name):
    """Dot files are no data: AppleDouble files of macOS ("._a.jpg"), caches, thumbnails, checkpoints of editors."""
    return name.startswith(".")


def list_files(folder, suffixes):
    """Files below a folder whose names end so, hidden files and folders left out, sorted by path.

    Linked sub-folders are followed. Each folder is listed once: under its own name where it lies in ``folder``, else
    under that of the first link. Links to a folder that holds ``folder`` are loops and not followed. Links to files
    that are missing are listed, so that whoever opens them can name them.

    Args:
        folder (path): where to begin.
        suffixes (set of str): in lower case, with the dot.

    Raises:
        DataError: where a folder cannot be listed.
    """
    root = Path(folder)
    seen, files, links = set(), [], []
    around = {_identity(p) for p in root.resolve().parents}

    def walk(place):
        identity = _identity(place)
        if identity in seen or identity in around:
            return
        seen.add(identity)
        try:
            with os.scandir(place) as entries:
                entries = sorted(entries, key=lambda e: e.name)
        except OSError as e:
            raise DataError(f"cannot list the folder {place} ({e.strerror}).") from e
        for entry in entries:
            path = Path(place, entry.name)
            if is_hidden(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                walk(path)
            elif os.path.isdir(path):
                links.append(path)
            elif path.suffix.lower() in suffixes:
                files.append(path)

    walk(root)
    while links:  # after all that lies in the folder itself
        walk(links.pop(0))
    return sorted(files)


def list_images(folder):
    """:func:`list_files` of images."""
    return list_files(folder, IMAGE_SUFFIXES)


def glob_files(folder, pattern):
    """Paths of a fixed layout, such as ``*/*_leftImg8bit.png``, hidden ones left out, sorted. Links are followed."""
    folder = Path(folder)
    found = (p for p in folder.glob(pattern) if not any(map(is_hidden, p.relative_to(folder).parts)))
    return sorted(found)


def read_json(path, where, missing):
    """The content of a JSON file.

    Args:
        where (str): the file in an error message.
        missing (str): the message where there is no such file.

    Raises:
        DataError: where it is missing, or no JSON.
    """
    try:
        # some editors and exporters begin a file with a byte order mark
        return json.loads(read_text(path).removeprefix("\ufeff"))
    except FileNotFoundError:
        raise DataError(missing) from None
    except (OSError, ValueError, RecursionError) as e:
        raise DataError(f"{where} is not a readable JSON file ({e}).") from e


def _identity(folder):
    try:
        status = os.stat(folder)
    except OSError as e:
        raise DataError(f"cannot read the folder {folder} ({e.strerror}).") from e
    # file systems without numbers of their own (some of Windows) give 0 to all
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)
