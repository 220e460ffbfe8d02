"""What programs write: whole files, never in place of one that the program reads, or that it did not make."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from ..errors import DataError
from .atomic_files import whole_file
from .ordinary_files import check_ordinary

RECORD = ".mic_det_files"  # beside the files: who made them, one line of JSON each
EDGE = 2**20  # bytes at both ends of a file that tell it from others of its size


class Outputs:
    """The files that one program writes below a folder.

    A file that is there already is replaced where the program made it, and it is as the program left it; others are
    only with ``overwrite``. What the program reads is never replaced. Files are whole or absent.
    """

    def __init__(self, folder, program, inputs=(), overwrite=False):
        """
        Args:
            folder (path): made when the first file is written.
            program (str): e.g. "export".
            inputs (iterable of path): files, and folders with all that is in them, that the program reads.
            overwrite (bool): ``--overwrite``.
        """
        self.folder, self.program, self.overwrite = Path(folder), program, overwrite
        self.inputs, self.input_folders = set(), []
        for path in map(str, inputs):
            if os.path.isdir(path):
                self.input_folders.append(Path(os.path.realpath(path)))
            elif os.path.exists(path):
                self.inputs.add(_identity(path))
        self._made = self._read_record()

    def check(self, names):
        """Refuse what could not be written, before time is spent.

        Args:
            names (iterable of str): paths below the folder.

        Raises:
            DataError: names the first that is in the way.
        """
        for name in names:
            self._check(name)

    @contextlib.contextmanager
    def writing(self, name):
        """A path to write to, which becomes ``name`` at the end of the block; nothing is left where that fails.

        Raises:
            DataError: where a file is in the way, or cannot be written.
        """
        path = self.folder / name
        try:
            self._check(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary:
                yield temporary
                self._record(name, temporary)
        except OSError as e:
            raise DataError(f"cannot write {path} ({e.strerror or e}): check --output.") from e

    @contextlib.contextmanager
    def finishing(self, name):
        """As :meth:`writing`, for what is of use though its end is missing: kept where the block is left early."""
        error = None
        with self.writing(name) as file:
            try:
                yield file
            except BaseException as e:
                error = e
            if error is not None and not file.exists():
                raise error
        if error is not None:
            raise error

    def write_text(self, name, text):
        """Write a text file; see :meth:`writing`."""
        with self.writing(name) as file:
            file.write_bytes(text.encode("utf-8"))

    def _check(self, name):
        path = self.folder / name
        real = Path(os.path.realpath(path))
        inside = next((f for f in self.input_folders if f == real or f in real.parents), None)
        if inside or (os.path.exists(path) and _identity(path) in self.inputs):
            where = f"in {inside}, which is" if inside else "a file that is"
            raise DataError(f"{path} is {where} read by {self.program}: name another --output.")
        if not os.path.lexists(path):
            return
        try:
            check_ordinary(path)
            own = not path.is_symlink() and self._is_own(name, _fingerprint(path))
        except OSError as e:
            raise DataError(f"cannot write {path} ({e.strerror or e}): name another --output.") from e
        if not own and not self.overwrite:
            raise DataError(
                f"{path} is there already, and {self.program} did not make it, or it was changed since: name another "
                "--output, or replace it with --overwrite."
            )

    def _is_own(self, name, fingerprint):
        if fingerprint not in self._made.get(str(name), ()):
            self._made = self._read_record()  # the same program may write in several processes
        return fingerprint in self._made.get(str(name), ())

    def _read_record(self):
        made = {}
        try:
            check_ordinary(self.folder / RECORD)
            lines = (self.folder / RECORD).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return made
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                program, name, fingerprint = json.loads(line)
                if program == self.program:
                    made.setdefault(name, set()).add(fingerprint)
        return made

    def _record(self, name, file):
        """Note what the file ``name`` is going to be: a program that is killed just after may replace it again."""
        fingerprint = _fingerprint(file)
        if fingerprint not in self._made.setdefault(str(name), set()):
            with open(self.folder / RECORD, "a", encoding="utf-8") as f:
                f.write(json.dumps([self.program, str(name), fingerprint]) + "\n")
            self._made[str(name)].add(fingerprint)


def _identity(path):
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _fingerprint(path):
    """Size and ends of a file: large ones need not be read whole, and a copied folder is still known."""
    with open(path, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(0)
        digest = hashlib.sha1(f.read(EDGE))
        f.seek(max(0, size - EDGE))
        digest.update(f.read(EDGE))
    return f"{size}-{digest.hexdigest()}"


def add_overwrite_argument(parser):
    """The option of every program that writes files which the user may have others in place of."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files of the output that this program did not make; what it reads is never replaced",
    )
    return parser
