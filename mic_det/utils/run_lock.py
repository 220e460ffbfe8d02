"""One run, one folder: a lock on OUTPUT_DIR that lasts as long as the process, however that ends."""

import atexit
import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time

from detectron2.utils import comm

from ..errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = "run.lock"
BEAT = 10.0  # seconds between two signs of life
PATIENCE = 25.0  # seconds without one, after which a run of another machine counts as dead
# file systems that know no locks, or were mounted without
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

_held = {}  # real path of the folder -> RunLock: for the process's life


def run_lock(folder):
    """Take the folder for this run until its process ends; all processes of a run call it, and the first one takes it.

    The system itself drops the lock where the process is killed. Where it cannot tell (a network file system without
    locks, or a run on another machine), the lock file does: who holds it, and every ten seconds that it lives.

    Args:
        folder (path): of the run; it is there already.

    Raises:
        ConfigError: in all processes, where another run has it; names the run.
    """
    problem = _take(folder) if comm.is_main_process() else ""
    problem = comm.all_gather(problem)[0]
    if problem:
        raise ConfigError(problem)


def _take(folder):
    """The lock, or why it cannot be had; "" where it is held."""
    place = os.path.realpath(folder)
    if place in _held:  # this very process: one run after the other
        if _held[place].is_current():
            return ""
        _held.pop(place).release()  # the folder was removed since, and made again
    try:
        lock = RunLock(place)
        owner = lock.take()
    except OSError as e:
        return f"OUTPUT_DIR {folder} cannot be written to ({e.strerror or e}): name another folder."
    if not owner:
        _held[place] = lock
        return ""
    return (
        f"OUTPUT_DIR {folder} is in use by another run ({describe(owner)}): two runs would spoil each other's files. "
        f"Name another OUTPUT_DIR, or wait for it to end. If there is no such run, remove {lock.path}."
    )


def describe(owner):
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(owner["since"])) if "since" in owner else "some time ago"
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {since}"


class RunLock:
    """The lock of one folder; see :func:`run_lock`."""

    def __init__(self, folder, beat=BEAT, patience=PATIENCE):
        self.path, self.beat, self.patience = os.path.join(folder, NAME), beat, patience
        self.file = None
        self._ended = threading.Event()

    def take(self):
        """Take it.

        Returns:
            dict: who holds it; empty where this process does now.

        Raises:
            OSError: where the file cannot be written.
        """
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                owner = self._take(file)
                if not owner and not self.is_current(file):
                    continue  # its owner removed it just now: the new file counts
                if not owner:
                    self._hold(file)
                    file = None
                return owner
            finally:
                if file is not None:
                    os.close(file)

    def _take(self, file):
        locked, owner, here = _lock(file), _read(file), _system()
        if locked is False:
            return owner or {"host": "this or another machine"}
        if not owner or (locked and owner.get("boot") == here["boot"] and here["boot"]):
            return {}  # of the same system, which gave us the lock: the owner is gone
        if all(owner.get(k) == v for k, v in here.items()):
            return owner if _is_alive(owner) else {}
        logging.getLogger(__name__).warning(
            "%s: waiting %.0f seconds for a sign of life of another run (%s).",
            self.path,
            self.patience,
            describe(owner),
        )
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            time.sleep(min(1.0, self.patience / 10))
            # opened anew, which makes network file systems look; closing it drops our lock
            with contextlib.suppress(OSError), open(self.path, "rb") as fresh:
                now = _read(fresh.fileno())
                if now != owner:
                    return now
        return _read(file) if _lock(file) is False else {}

    def is_current(self, file=None):
        """Whether the file that is held is still the one in the folder."""
        try:
            there, here = os.stat(self.path), os.fstat(self.file if file is None else file)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _hold(self, file):
        self.file, self._pid = file, os.getpid()
        self.owner = {
            **_system(), "pid": os.getpid(), "started": _start_time(os.getpid()), "since": int(time.time()), "beats": 0
        }  # fmt: skip
        self._write()
        threading.Thread(target=self._beat, name="run.lock", daemon=True).start()
        atexit.register(self.release)

    def _write(self):
        content = json.dumps(self.owner).encode().ljust(400) + b"\n"
        os.pwrite(self.file, content, 0)
        with contextlib.suppress(OSError):
            os.fsync(self.file)

    def _beat(self):
        while not self._ended.wait(self.beat):
            self.owner["beats"] += 1
            with contextlib.suppress(OSError):  # a full disk must not end a run here
                self._write()

    def release(self):
        """Let others have the folder; what a fork made of this process does nothing."""
        if self.file is None or os.getpid() != self._pid:
            return
        self._ended.set()
        if self.is_current():
            with contextlib.suppress(OSError):
                os.remove(self.path)
        os.close(self.file)
        self.file = None


def _lock(file):
    """True where the system gave the lock, False where another process has it, None where it cannot tell."""
    if fcntl is None:
        return None
    try:
        # POSIX's lock: worker processes, which are forked, do not keep it when this process is killed
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as e:
        if e.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if e.errno in UNSUPPORTED:
            return None
        raise


def _read(file):
    """Who the file says that it belongs to; empty where it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(os.pread(file, 4096, 0))
        if isinstance(found, dict):
            return found
    return {}


def _system():
    """Where this process runs: machine, its present life, and the space that process ids are counted in."""
    found = {"host": socket.gethostname(), "boot": "", "space": ""}
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
        found["boot"] = f.read().strip()
    with contextlib.suppress(OSError):
        found["space"] = os.readlink("/proc/self/ns/pid")
    return found


def _start_time(pid):
    """When a process of this system was started, in the system's ticks; None where it is not there or not known."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        return int(f.read().rpartition(")")[2].split()[19])
    return None


def _is_alive(owner):
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return owner.get("started") in (None, _start_time(pid))
