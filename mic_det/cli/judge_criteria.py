"""A table of how well criteria choose checkpoints, from the files of ``select``."""

import itertools
import json
import math
from pathlib import Path

from ..errors import ConfigError, DataError
from ..evaluation.label_free.criteria import CRITERIA
from ..evaluation.label_free.judging import judge
from ..evaluation.label_free.ranking import combined
from ..utils.ordinary_files import read_text
from ..utils.printable import printable
from .select_checkpoint import FORMAT

BIASED = 0.25  # bias above which a combination counts as one that favours a way of training
SHOWN = 5  # combinations


def needs_detectron2(args):
    return False


def main(args):
    unknown = [n for n in args.combination if n not in CRITERIA]
    if unknown:
        raise ConfigError(f"--combination: there is no criterion {unknown[0]!r}. Known: {', '.join(CRITERIA)}.")
    files = {file: read(file) for file in args.files}
    tables = {file: table(checkpoints, args.combination) for file, checkpoints in files.items()}
    for file, rows in tables.items():
        first = next(iter(rows.values()))
        print(printable(f"{file}: {first['checkpoints']} checkpoints of {first['runs']} runs; regret of the last "
                        f"checkpoints {first['last_regret']:.2f}"))  # fmt: skip
        print(f"{'':24s}{'rho':>7s}{'regret':>8s}{'across':>8s}{'mask':>7s}{'self':>7s}  collapsed below their start")
        for name, x in rows.items():
            numbers = f"{x['rho']:7.2f}{x['regret']:8.2f}{x['regret_across']:8.2f}"
            biases = f"{x['mask_bias']:7.2f}{x['self_bias']:7.2f}"
            print(f"{name:24s}{numbers}{biases}  {x['found']} of {x['collapsed']}")
        print()
    if args.search:
        print("The best combinations of at most 4 criteria with equal weights:")
        for names, missed, bias, regret, rho in search(list(files.values()))[:SHOWN]:
            print(f"missed {missed}, bias {bias:.2f}, regret {regret:.2f}, rho {rho:.2f}: {' '.join(names)}")
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


def table(checkpoints, weights=None):
    """Score -> result of :func:`judge`, first that of the combination: by these weights, or the scores of the file."""
    names = [n for n in CRITERIA if any(c["criteria"].get(n) is not None for c in checkpoints)]
    rows = {"combination": judge(checkpoints, lambda c: score(c, weights) if weights else c["score"])}
    return {**rows, **{n: judge(checkpoints, lambda c, n=n: signed(c, n)) for n in names}}


def score(checkpoint, weights):
    """The combination of a checkpoint's criteria by these weights, 0 where it has lost a class; None = undefined."""
    if checkpoint.get("lost_classes"):
        return 0.0
    return combined({k: math.nan if v is None else v for k, v in checkpoint["criteria"].items()}, weights)


def search(files, most=4):
    """Combinations, the best first: (names, collapsed checkpoints missed, largest |bias|, mean regret, mean rho).

    First come those that miss fewest, of them those that favour no way of training (a bias of at most 0.25), of them
    those with the smallest regret, then with the largest rho.

    Args:
        files (list[list[dict]]): checkpoints of each ground. A criterion that some of them lack is left out.
    """
    common = [n for n in CRITERIA if all(n in c["criteria"] for checkpoints in files for c in checkpoints)]
    found = []
    for size in range(1, most + 1):
        for names in itertools.combinations(common, size):
            weights = dict.fromkeys(names, 1.0)
            results = [judge(checkpoints, lambda c, w=weights: score(c, w)) for checkpoints in files]
            missed = sum(r["collapsed"] - r["found"] for r in results)
            regret, rho = (sum(r[k] for r in results) / len(results) for k in ("regret", "rho"))
            biases = [abs(r[k]) for r in results for k in ("mask_bias", "self_bias") if math.isfinite(r[k])]
            bias = max(biases, default=math.nan)
            found.append((names, missed, bias, regret, rho))
    return sorted(found, key=lambda x: (x[1], x[2] > BIASED, x[3] if x[3] == x[3] else math.inf, -x[4]))


def signed(checkpoint, name):
    """A criterion's value, turned so that higher is better; None = not measured, NaN = undefined (no box at all)."""
    if name not in checkpoint["criteria"]:
        return None
    value = checkpoint["criteria"][name]
    if value is None:
        return math.nan
    return value if CRITERIA[name].higher else -value
