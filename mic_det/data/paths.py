"""Paths of data sets in configs."""

import os
from pathlib import Path


def expanded(path):
    """A path of a config with ``~`` and ``$VARIABLES`` put in, as a shell does; unknown ones stay."""
    return os.path.expandvars(os.path.expanduser(path))


def resolve_path(path):
    """Absolute paths as they are; others below ``$DETECTRON2_DATASETS`` (default ``./datasets``)."""
    path = Path(expanded(path))
    root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    return path if path.is_absolute() else Path(root) / path
