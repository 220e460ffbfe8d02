"""Modules of users' own, which register models, data sets and more: ``--import MODULE`` of the programs."""

import importlib
import os
import sys
import traceback

from ..errors import ConfigError


def add_import_argument(parser):
    """``--import MODULE``, for every program that reads a config: a config can only name what is registered."""
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a Python module of yours first, for example one that registers a model or a data set; it may lie "
        "in the current folder; may be given several times",
    )
    return parser


def import_own_code(modules):
    """Import modules by their dotted names, from the current folder first, as ``python -m`` does.

    Args:
        modules (sequence of str): for example ``["my_model", "my_package.my_data"]``.

    Raises:
        ConfigError: where a module is not found, or fails as it is imported; names it and the line.
    """
    if modules and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
        importlib.invalidate_caches()
    for name in modules:
        if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
            raise ConfigError(
                f"--import {name}: give the name of a module, such as my_model for my_model.py or package.module for "
                "package/module.py in the current folder."
            )
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name and (name + ".").startswith(e.name + "."):
                raise ConfigError(
                    f"--import {name}: there is no module {e.name} in {os.getcwd()}, on PYTHONPATH or installed."
                ) from None
            raise _failed(name, e) from e
        except (Exception, SystemExit) as e:
            raise _failed(name, e) from e


def _failed(name, error):
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if isinstance(error, SyntaxError):
        return ConfigError(f"--import {name} failed: {text}")  # which names file and line
    # the last line of the user's own, not of what it calls
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    folders = (os.path.dirname(importlib.__file__), sys.prefix, sys.base_prefix)
    own = [f for f in frames if not f.filename.startswith(folders) and f.filename != __file__] or frames
    return ConfigError(f"--import {name} failed: {own[-1].filename}, line {own[-1].lineno}: {text}")
