"""A comparison of methods: what is trained, from a plan in YAML, and the table of its results."""

import math
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..config import compose_bounded
from ..config.rules import is_number
from ..errors import ConfigError, DataError
from ..utils.ordinary_files import read_text
from .report import final_results
from .run_files import read_run

KEYS = {"BURN_IN", "CELLS", "TEST", "METRIC", "SEEDS", "BASELINE", "ORACLE", "PAIRS", "CURVE", "SWEEP", "OPTS"}


@dataclass
class Sweep:
    """A figure of the metric over a number: ``points`` maps cells to it, ``levels`` are cells that have none."""

    x: str = ""  # text below the axis
    points: dict = field(default_factory=dict)
    levels: list = field(default_factory=list)


@dataclass
class Plan:
    """Trainings to compare, as in ``configs/minicity/ablation.yaml``, where each key is explained.

    ``burn_in`` is (config file, options), and ``cells`` maps names to the same. All cells of a seed begin with
    the weights that the burn-in of that seed has left.
    """

    burn_in: tuple
    cells: dict
    test: str
    seeds: list
    metric: str = "AP50"
    baseline: str = ""
    oracle: str = ""
    pairs: list = field(default_factory=list)
    curve: list = field(default_factory=list)
    opts: list = field(default_factory=list)
    sweep: Sweep = field(default_factory=Sweep)


def read_plan(path):
    """
    Raises:
        ConfigError: a missing file, an unknown or a missing key, a cell that is named but not there.
    """
    path = Path(path)
    try:
        content = compose_bounded(read_text(path))[1]
    except OSError as e:
        raise ConfigError(f"cannot read the plan {path} ({e.strerror}).") from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise ConfigError(f"{path} is not YAML ({' '.join(str(e).split())}).") from e
    if not isinstance(content, dict) or set(content) - KEYS:
        wrong = sorted(set(content) - KEYS)[0] if isinstance(content, dict) else type(content).__name__
        raise ConfigError(f"{path}: a plan has the keys {', '.join(sorted(KEYS))}, not {wrong!r}.")
    missing = [k for k in ("BURN_IN", "CELLS", "TEST", "SEEDS") if not content.get(k)]
    if missing:
        raise ConfigError(f"{path}: {missing[0]} is missing or empty.")
    cells = {str(name): _training(path, name, cell) for name, cell in content["CELLS"].items()}
    plan = Plan(
        _training(path, "BURN_IN", content["BURN_IN"]), cells, content["TEST"], [int(x) for x in content["SEEDS"]],
        content.get("METRIC", "AP50"), content.get("BASELINE", ""), content.get("ORACLE", ""),
        content.get("PAIRS", []), content.get("CURVE", []), [str(x) for x in content.get("OPTS", [])],
        _sweep(path, content.get("SWEEP", {})),
    )  # fmt: skip
    for key, names in (("BASELINE", [plan.baseline]), ("ORACLE", [plan.oracle]), ("CURVE", plan.curve),
                       ("PAIRS", [name for pair in plan.pairs for name in pair]),
                       ("SWEEP", [*plan.sweep.points, *plan.sweep.levels])):  # fmt: skip
        unknown = [name for name in names if name and name not in cells]
        if unknown:
            raise ConfigError(f"{path}: {key} names {unknown[0]!r}; the cells are {', '.join(cells)}.")
    absent = [str(file) for file, _ in [plan.burn_in, *cells.values()] if not file.is_file()]
    if absent:
        raise ConfigError(f"{path} names the config {absent[0]}, which is not there.")
    if len({folder_name(name) for name in cells}) < len(cells):
        raise ConfigError(f"{path}: two cells would share a folder; give them names that differ in letters or digits.")
    return plan


def _training(path, name, entry):
    """(config file, options) of a plan's entry: a file's name, or a mapping."""
    entry = {"CONFIG": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or set(entry) - {"CONFIG", "OPTS"} or "CONFIG" not in entry:
        raise ConfigError(f"{path}: {name!r} is {entry!r}: use a config file, or {{CONFIG: file, OPTS: [...]}}.")
    return path.parent / entry["CONFIG"], [str(x) for x in entry.get("OPTS", [])]


def _sweep(path, entry):
    """A plan's ``SWEEP``, checked: nothing, or X (text), POINTS (cell -> number) and LEVELS (list of cells)."""
    if not entry:
        return Sweep()
    right = (
        isinstance(entry, dict)
        and set(entry) <= {"X", "POINTS", "LEVELS"}
        and isinstance(entry.get("X"), str)
        and isinstance(entry.get("POINTS"), dict)
        and all(map(is_number, entry["POINTS"].values()))
        and len(set(entry["POINTS"].values())) == len(entry["POINTS"])
        and isinstance(entry.get("LEVELS", []), list)
    )
    if not right:
        raise ConfigError(
            f"{path}: SWEEP is {entry!r}: use {{X: text, POINTS: {{cell: number}}, LEVELS: [cell]}}, "
            "with another number for each cell."
        )
    return Sweep(entry["X"], entry["POINTS"], entry.get("LEVELS", []))


def folder_name(cell):
    """Name of a cell's folder: its letters and digits, joined by ``_``."""
    return "_".join(re.findall(r"[a-z0-9.]+", cell.lower()))


def run_folder(output, seed, cell=None):
    """Where a seed's cell, or its burn-in (None), is trained."""
    return Path(output) / f"seed{seed}" / (folder_name(cell) if cell else "burn_in")


@dataclass
class Result:
    """What a cell's runs came to: metric -> one value a seed, hours of training, and their curves."""

    seeds: list = field(default_factory=list)
    values: dict = field(default_factory=dict)
    hours: list = field(default_factory=list)
    curves: list = field(default_factory=list)  # {step: metric} a seed

    def mean(self, metric):
        return statistics.fmean(self.values[metric])

    def spread(self, metric):
        """Standard deviation over the seeds (n - 1); None of a single one."""
        values = self.values[metric]
        return statistics.stdev(values) if len(values) > 1 else None


def collect(plan, output, seeds=None):
    """Results of the runs that have reached their end, in the order of the plan.

    Returns:
        dict[str, Result]: "burn-in" first; cells of which no run has ended are left out.
    """
    results = {}
    for cell in (None, *plan.cells):
        result = Result()
        for seed in seeds or plan.seeds:
            folder = run_folder(output, seed, cell)
            if (folder / "model_final.pth").is_file():
                _add_run(result, plan, seed, read_run(folder))
        if result.seeds:
            results[cell or "burn-in"] = result
    return results


def _add_run(result, plan, seed, run):
    found = final_results(run).get(plan.test)
    if not found or plan.metric not in found[1]:
        raise DataError(f"{run.folder} has no {plan.metric} on {plan.test}: is the plan's TEST in DATASETS.TEST?")
    result.seeds.append(seed)
    prefix = {"mIoU": "IoU-"}.get(plan.metric, f"{plan.metric}-")
    for name, value in found[1].items():
        known = math.isfinite(value)  # of a class that the set does not show, it is NaN
        if name == plan.metric or (name.startswith(prefix) and known):
            result.values.setdefault(name, []).append(value)
    seconds = sorted(run.curve("time")[1])
    result.hours.append(seconds[len(seconds) // 2] * run.last_step / 3600 if seconds else float("nan"))
    result.curves.append({s: v[plan.metric] for s, v in run.evaluations()[plan.test].items() if plan.metric in v})


def gap_closed(plan, results, cell):
    """Share of the gap between baseline and oracle that a cell closes, from their means; None where unknown."""
    if not {plan.baseline, plan.oracle, cell} <= results.keys():
        return None
    low, high, own = (results[x].mean(plan.metric) for x in (plan.baseline, plan.oracle, cell))
    return (own - low) / (high - low) if high > low else None


def table(plan, results):
    """The results as a Markdown table, and below it what the plan's pairs differ by in each seed."""
    metric = plan.metric
    classes = list(dict.fromkeys(k for r in results.values() for k in r.values if k != metric))
    head = ["method", f"{metric}, mean ± s.d.", "each seed", "gap closed", *(c.split("-", 1)[1] for c in classes), "h"]
    rows = [head, ["---"] * len(head)]
    for name, result in results.items():
        spread, closed = result.spread(metric), gap_closed(plan, results, name)
        rows.append([
            name, f"{result.mean(metric):.1f}" + (f" ± {spread:.1f}" if spread is not None else ""),
            " ".join(f"{v:.1f}" for v in result.values[metric]), f"{closed:.0%}" if closed is not None else "",
            *(f"{result.mean(c):.1f}" if c in result.values else "" for c in classes),
            f"{statistics.fmean(result.hours):.2f}",
        ])  # fmt: skip
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    for better, base in plan.pairs:
        if {better, base} <= results.keys():
            ours, theirs = (dict(zip(results[x].seeds, results[x].values[metric])) for x in (better, base))
            gains = [f"{ours[s] - theirs[s]:+.1f}" for s in ours if s in theirs]
            lines += ["", f"{better} against {base}, seed by seed: {', '.join(gains)}"]
    return "\n".join(lines)


def mean_curves(plan, results):
    """Cell -> (steps, mean of the metric over the seeds that were evaluated there), for the plan's ``CURVE``.

    Step 0 is the burn-in's own result.
    """
    curves = {}
    for name in plan.curve:
        if name in results:
            steps = sorted(set.intersection(*(set(c) for c in results[name].curves)))
            values = [statistics.fmean(c[s] for c in results[name].curves) for s in steps]
            if "burn-in" in results:
                steps, values = [0, *steps], [results["burn-in"].mean(plan.metric), *values]
            curves[name] = steps, values
    return curves


def sweep_points(plan, results):
    """What the plan's ``SWEEP`` draws: the metric against a number that its cells differ in.

    Returns:
        (points, levels): {number: (mean, spread)} in the order of the numbers, and {cell: (mean, spread)} of the
        cells that have no such number. Cells without a finished run are left out; spread is None for one seed.
    """

    def found(cell):
        return results[cell].mean(plan.metric), results[cell].spread(plan.metric)

    numbers = sorted((x, cell) for cell, x in plan.sweep.points.items() if cell in results)
    levels = [cell for cell in plan.sweep.levels if cell in results]
    return {x: found(cell) for x, cell in numbers}, {cell: found(cell) for cell in levels}
