"""Names of images that are not on the disk as they are written: the file that is meant, for error messages."""

import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote

from ..files import list_images

DRIVE = re.compile(r"^[A-Za-z]:(?=[\\/])")
URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://[^/]*/?")


class FilesOnDisk:
    """The files below a folder, by what is left of a name when its way of writing is left out of account.

    That is: back-slashes, drive letters, URLs and their quoting, other folders in front, case, Unicode's form, and as a
    last resort the suffix. The folder is listed when it is first asked for.
    """

    def __init__(self, folder):
        self.folder, self._files = Path(folder), None

    def similar(self, name):
        """The one file, relative to the folder, that ``name`` may mean; None where there is none, or several.

        Args:
            name (str): as in the annotation file.
        """
        parts = _plain_parts(name)
        if not parts:
            return None
        if self._files is None:
            self._list()
        candidates = self._files[parts[-1]] or self._files[("stem", os.path.splitext(parts[-1])[0])]
        best = [(_common_tail(_plain_parts(c.as_posix()), parts), c) for c in candidates]
        most = max((n for n, _ in best), default=0)
        chosen = [c for n, c in best if n == most]
        return chosen[0].as_posix() if len(chosen) == 1 else None

    def hint(self, name):
        """A sentence that names the similar file, "" where there is none."""
        found = self.similar(name)
        if found is None:
            return ""
        return f" Is {self.folder / found} meant? Then its 'file_name' must be {found!r}, not {name!r}."

    def _list(self):
        self._files = defaultdict(list)
        for file in list_images(self.folder):
            path, plain = file.relative_to(self.folder), _plain(file.name)
            self._files[plain].append(path)
            self._files[("stem", os.path.splitext(plain)[0])].append(path)


def _plain(name):
    return unicodedata.normalize("NFC", unquote(name)).strip().casefold()


def _plain_parts(name):
    url = URL.match(name)
    name = re.split(r"[?#]", name[url.end() :])[0] if url else DRIVE.sub("", name)
    parts = unquote(name).replace("\\", "/").split("/")
    return [_plain(p) for p in parts if p not in ("", ".", "..")]


def _common_tail(a, b):
    count = 0
    for x, y in zip(reversed(a[:-1]), reversed(b[:-1])):
        if x != y:
            break
        count += 1
    return count
