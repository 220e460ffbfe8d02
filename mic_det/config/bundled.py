"""The configs that are part of mic_det, in the checkout or in the installed package."""

import difflib
import os
from pathlib import Path, PurePosixPath

from ..errors import ConfigError
from .yaml_files import REMOTE

PACKAGE = Path(__file__).resolve().parents[1]


def config_folder():
    """The folder of the configs. In a checkout it is beside the package, in a wheel inside of it."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def find_config(name):
    """The path of a config file, from its path, or from its name among mic_det's own configs.

    An existing file has precedence. Relative paths inside a config, such as ``MODEL.WEIGHTS``, are always relative to
    the current folder.

    Args:
        name (str or path): e.g. "my.yaml", "minicity/mic.yaml" or "configs/minicity/mic.yaml"; "" stays "".

    Returns:
        str: the path.

    Raises:
        ConfigError: where no such file exists.
    """
    text = str(name)
    if not text or os.path.lexists(text) or "://" in text or text.startswith(REMOTE) or os.path.isabs(text):
        return text
    parts = PurePosixPath(text.replace(os.sep, "/")).parts
    short = "/".join(parts[1:] if parts[:1] == ("configs",) else parts)
    folder = config_folder()
    if ".." not in parts and (folder / short).is_file():
        return str(folder / short)
    known = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.yaml"))]
    meant = difflib.get_close_matches(short, known, 1, 0.75)
    hint = f" Is {meant[0]} meant?" if meant else ""
    raise ConfigError(f"there is no config file {text}, neither here nor among those of mic_det.{hint}")
