"""One folder, one run: what an earlier run left in OUTPUT_DIR is moved aside before a new one begins."""

import fnmatch
import os
import re
import shlex
import sys

from detectron2.utils import comm

from ..checkpoint.storage import BEST_LABEL_FREE, FINAL, LAST, has_checkpoint
from ..errors import ConfigError

# What a training or an evaluation writes. Checkpoints go first and config.yaml, which tells that all is ours, last.
CHECKPOINTS = (LAST, f"{LAST}.tmp", "model_[0-9]*.pth", FINAL, BEST_LABEL_FREE, "model_*.pth.tmp")
COMMANDS = "command_line.txt"  # a line for each start of the run
LOGS = ("log.txt", "log.txt.rank*", COMMANDS)
TRACKERS = "trackers"  # ids of the runs at wandb and MLflow, and wandb's own files
RESULTS = (
    "metrics.json", "metrics.json.tmp", "events.out.tfevents.*", "inference", "student", "visuals", "non_finite",
    TRACKERS,
)  # fmt: skip
CONFIG = "config.yaml"
PREVIOUS = "previous_{}"
MOVING = "moving"  # in the sub-folder, as long as files are moved into it


def prepare_run_folder(folder, reads=(), resume=False):
    """Make the folder one that holds nothing of an earlier run, unless that is resumed.

    What is there goes to the sub-folder ``previous_1``, ``previous_2``, ...; other files of the user stay. ``resume``
    without any checkpoint is a new run too. All processes of a run call this; the first one moves.

    Args:
        folder (path): OUTPUT_DIR, which is there.
        reads (iterable of (str, path)): what the new run reads, by key: it must not be moved away.

    Returns:
        str: the sub-folder; "" where nothing was moved.

    Raises:
        ConfigError: in all processes, where the folder has files of a run that is none of mic_det, where one of
            ``reads`` is among those to be moved, or where they cannot be moved.
    """
    moved, problem = "", ""
    if comm.is_main_process():
        try:
            finish_moving(folder)
            if not (resume and has_checkpoint(folder)):
                moved = _move_aside(folder, reads)
        except ConfigError as e:
            problem = str(e)
        except OSError as e:
            problem = f"cannot move the files of an earlier run in OUTPUT_DIR {folder} ({e}): name another folder."
    moved, problem = comm.all_gather((moved, problem))[0]
    if problem:
        raise ConfigError(problem)
    return moved


def note_command(folder):
    """Add the command line of this process to those that the run was started with."""
    starter = ["python"]
    if "LOCAL_WORLD_SIZE" in os.environ:
        starter = ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]
    line = shlex.join([*starter, *sys.argv])
    with open(os.path.join(folder, COMMANDS), "a", encoding="utf-8", errors="surrogateescape") as f:
        f.write(line + "\n")


def has_training(folder):
    """Whether a training has written its metrics to the folder."""
    return os.path.isfile(os.path.join(folder, "metrics.json"))


def finish_moving(folder):
    """Move the rest where a process was killed while it moved: the new run had not begun to write."""
    for name in _listed(folder):
        target = os.path.join(folder, name)
        if re.fullmatch(r"previous_\d+", name) and os.path.isfile(os.path.join(target, MOVING)):
            _move(folder, target)


def _move_aside(folder, reads):
    present = _present(folder, (*CHECKPOINTS, *RESULTS, *LOGS, CONFIG))
    if not present:
        return ""
    others = [name for name in present if not any(fnmatch.fnmatch(name, x) for x in LOGS)]
    if others and not _is_ours(folder):
        raise ConfigError(
            f"OUTPUT_DIR {folder} has {others[0]}, but no {CONFIG} of a run of mic_det: its files would be mixed with "
            "those of the new run. Name another OUTPUT_DIR."
        )
    number = 1
    while os.path.lexists(target := os.path.join(folder, PREVIOUS.format(number))):
        number += 1
    moving = [os.path.realpath(os.path.join(folder, x)) for x in present]
    for key, path in reads:
        real = os.path.realpath(path)
        if any(real == x or real.startswith(os.path.join(x, "")) for x in moving):
            raise ConfigError(
                f"{key} {path} is of the run in OUTPUT_DIR, whose files a new run moves to {target}: copy it to "
                "another place, name another OUTPUT_DIR, or add --resume to continue that run."
            )
    os.mkdir(target)
    with open(os.path.join(target, MOVING), "wb"):
        pass
    _move(folder, target)
    return target


def _move(folder, target):
    for name in _present(folder, (*CHECKPOINTS, *RESULTS, *LOGS, CONFIG)):
        os.rename(os.path.join(folder, name), os.path.join(target, name))
    os.remove(os.path.join(target, MOVING))


def _present(folder, patterns):
    """Names in the folder that fit the patterns, in the order of these; not a sub-folder that is a run of its own."""
    names = [x for x in _listed(folder) if not _present_run(os.path.join(folder, x))]
    return list(dict.fromkeys(name for pattern in patterns for name in fnmatch.filter(names, pattern)))


def _present_run(folder):
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("metrics.json", LAST))


def _listed(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _is_ours(folder):
    """Whether the folder's config.yaml, as yacs writes it, has mic_det's keys."""
    try:
        with open(os.path.join(folder, CONFIG), encoding="utf-8", errors="replace") as f:
            return re.search(r"^MODEL:\n(?:[ ].*\n)*? {2}MIC:$", f.read(1_000_000), re.MULTILINE) is not None
    except OSError:
        return False
