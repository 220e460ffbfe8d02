"""One part of a check as a process of its own: ``python -m mic_det.benchmark.gpu_check.part NAME SETTINGS RESULT``."""

import importlib
import json
import logging
import sys
from pathlib import Path

from ...utils.atomic_files import write_whole
from .plan import PARTS, Settings


def main(name, settings, file):
    """
    Args:
        name (str): of a part.
        settings (str): JSON of :class:`Settings`.
        file (path): gets the result as JSON, each time that the part saves it.
    """
    part = next(p for p in PARTS if p.name == name)
    logging.basicConfig(level=logging.WARNING)
    function = getattr(importlib.import_module(f".{part.module}", __package__), part.function)
    function(Settings(**json.loads(settings)), lambda result: write_whole(Path(file), lambda f: _write(f, result)))


def _write(file, result):
    file.write(json.dumps(result).encode("utf-8"))


if __name__ == "__main__":
    main(*sys.argv[1:])
