"""A table of how well criteria choose checkpoints, from the files of ``select``."""

import json
import math
from pathlib import Path

from ..errors import DataError
from ..evaluation.label_free.criteria import CRITERIA
from ..evaluation.label_free.judging import judge
from ..utils.ordinary_files import read_text
from ..utils.printable import printable
from .select_checkpoint import FORMAT


def needs_detectron2(args):
    return False


def main(args):
    tables = {file: table(read(file)) for file in args.files}
    for file, rows in tables.items():
        first = next(iter(rows.values()))
        print(printable(f"{file}: {first['checkpoints']} checkpoints of {first['runs']} runs; regret of the last "
                        f"checkpoints {first['last_regret']:.2f}"))  # fmt: skip
        print(f"{'':24s}{'rho':>7s}{'regret':>8s}  collapsed ones below their start")
        for name, x in rows.items():
            print(f"{name:24s}{x['rho']:7.2f}{x['regret']:8.2f}  {x['found']} of {x['collapsed']}")
        print()
    if args.output:
        Path(args.output).write_text(json.dumps(tables, indent=1), encoding="utf-8")


def read(file):
    """The checkpoints of a file of ``select``.

    Raises:
        DataError: where it is none, or was written without ``--judge``.
    """
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError) as e:
        raise DataError(f"{file} cannot be read as JSON ({e}). Name a file of `mic-det select --judge NAME`.") from e
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{file} is no file of `mic-det select` of this version.")
    if not any(c.get("AP50") is not None for c in content["checkpoints"]):
        raise DataError(f"{file} has no AP50 to judge with: run `mic-det select --judge NAME` again.")
    return content["checkpoints"]


def table(checkpoints):
    """Score -> result of :func:`judge`, the combination first."""
    names = [n for n in CRITERIA if any(c["criteria"].get(n) is not None for c in checkpoints)]
    rows = {"combination": judge(checkpoints, lambda c: c["score"])}
    return {**rows, **{n: judge(checkpoints, lambda c, n=n: signed(c, n)) for n in names}}


def signed(checkpoint, name):
    """A criterion's value, turned so that higher is better; None = not measured, NaN = undefined (no box at all)."""
    if name not in checkpoint["criteria"]:
        return None
    value = checkpoint["criteria"][name]
    if value is None:
        return math.nan
    return value if CRITERIA[name].higher else -value
