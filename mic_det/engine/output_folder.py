"""OUTPUT_DIR: whether a run can write to it, and what an evaluation does where it cannot."""

import contextlib
import logging
import os
import tempfile

from ..errors import ConfigError

WRITTEN = ("config.yaml", "log.txt", "metrics.json", "command_line.txt")  # in every run's folder


def make_output_folder(folder):
    """Make the folder of a run; "" where it can be written, else why not, as a part of a sentence."""
    try:
        os.makedirs(folder, exist_ok=True)
    except (OSError, ValueError) as e:
        return f"cannot be made ({getattr(e, 'strerror', None) or e})"
    return unwritable(folder)


def unwritable(folder):
    """Why a run cannot write to a folder that is there; "" where it can."""
    effective = os.access in os.supports_effective_ids  # whose rights count for opening a file

    def may(path, mode):
        return os.access(path, mode, effective_ids=effective)

    if not may(folder, os.W_OK | os.X_OK):
        return "cannot be written (no permission, or a read-only disk)"
    for name in WRITTEN:
        path = os.path.join(folder, name)
        if os.path.lexists(path) and not (os.path.isfile(path) and may(path, os.W_OK)):
            return f"has a {name} that cannot be written"
    return ""


def check_output(cfg, training):
    """Make ``OUTPUT_DIR``.

    Returns:
        bool: whether it can be written. An evaluation can do without, and says so.

    Raises:
        ConfigError: where a training could not write to it.
    """
    problem = make_output_folder(cfg.OUTPUT_DIR)
    if problem and training:
        raise ConfigError(f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} {problem}: name another folder.")
    if problem:
        logging.getLogger(__name__).warning(
            "OUTPUT_DIR %r %s: this evaluation writes no log and no results files.", cfg.OUTPUT_DIR, problem
        )
    return not problem


@contextlib.contextmanager
def with_output(cfg):
    """The config itself, with its folder made; where that cannot be written, one with a folder that does not last."""
    if not make_output_folder(cfg.OUTPUT_DIR):
        yield cfg
        return
    with tempfile.TemporaryDirectory() as folder:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = folder
        cfg.freeze()
        yield cfg
