"""What a run left in its folder: metrics, settings, log and pictures, of killed runs too."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..config import compose_bounded
from ..data.files import glob_files
from ..errors import DataError
from ..utils.ordinary_files import NotOrdinary, read_text

# Detectron2's evaluation tasks, and what their metrics are called by here
EVALUATED = {
    "bbox": "", "segm": "mask ", "keypoints": "keypoint ", "pck": "", "sem_seg": "", "panoptic_seg": "",
    "image_class": "",
}  # fmt: skip
RESULT = re.compile(rf"(?:(student)/)?(?:(.+?)/)?({'|'.join(EVALUATED)})/(.+)")
FILES_OF_A_RUN = ("metrics.json", "config.yaml", "log.txt", "command_line.txt")
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
ANSI = re.compile(r"\x1b?\[(?:\d{1,3};?)+m")  # colours that Detectron2 writes into log.txt


@dataclass
class Run:
    """One run folder. ``metrics`` has one dict an iteration (steps from 0), in order; ``notes`` say what is missing."""

    folder: Path
    name: str
    metrics: dict = field(default_factory=dict)  # step -> {metric: value}
    config_text: str = ""
    config: dict = field(default_factory=dict)
    commands: list = field(default_factory=list)
    environment: list = field(default_factory=list)  # (name, value)
    seed: str = ""
    notes: list = field(default_factory=list)
    pictures: list = field(default_factory=list)

    def setting(self, key, default=None):
        """A value of the config by its dotted key."""
        node = self.config
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node

    def curve(self, metric):
        """Steps and finite values of a metric."""
        points = [(s, v[metric]) for s, v in self.metrics.items() if isinstance(v.get(metric), (int, float))]
        points = [(s, v) for s, v in points if math.isfinite(v)]
        return [s for s, _ in points], [v for _, v in points]

    def names(self, prefix=""):
        """Metrics whose names begin with ``prefix``, sorted."""
        return sorted({k for values in self.metrics.values() for k in values if k.startswith(prefix)})

    def steps_done(self, iterations):
        """Steps of iterations of metrics.json: Detectron2 counts from 0, but not in the evaluation of the end."""
        planned = self.setting("SOLVER.MAX_ITER")
        planned = planned if isinstance(planned, int) else max([self.last_step, *self.metrics])
        return [min(i + 1, planned) for i in iterations]

    def evaluations(self):
        """Test set -> {step: {"AP50": ..., "AP50-car": ..., "mIoU": ..., "PQ": ...}}, after that number of steps.

        The student's results beside the teacher's are those of a set called "NAME (student)"; of instance masks and
        keypoints, whose metrics have the names of boxes', "AP" is "mask AP" and "keypoint AP".
        """
        found, test = {}, self.setting("DATASETS.TEST") or []
        for step, values in zip(self.steps_done(self.metrics), self.metrics.values()):
            for key, value in values.items():
                parts = RESULT.fullmatch(key)
                if not parts or not isinstance(value, (int, float)):
                    continue
                student, name, task, metric = parts.groups()
                # Detectron2 leaves the set's name out where there is only one
                name = name or (str(test[0]) if len(test) == 1 else "test set")
                name += " (student)" if student else ""
                found.setdefault(name, {}).setdefault(step, {})[EVALUATED[task] + metric] = value
        return found

    @property
    def last_step(self):
        """The last optimizer step, counted from 1, that the metrics list; 0 where there is none."""
        return max((s for s, v in self.metrics.items() if "total_loss" in v), default=-1) + 1


def read_run(folder):
    """
    Raises:
        DataError: where the folder is missing, or is none of a training: without config.yaml and metrics.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no run folder {folder}.")
    run = Run(folder, folder.resolve().name)
    _read_config(run)
    _read_metrics(run)
    _read_log(run)
    _check_end(run)
    run.pictures = list_pictures(folder / "visuals") + glob_files(folder, "inference/*/confusion.png")
    return run


def distinct_names(runs):
    """Give runs whose folders have the same name the names of their parents too."""
    depth = 1
    while len({r.name for r in runs}) < len({r.folder.resolve() for r in runs}) and depth < 20:
        depth += 1
        for run in runs:
            run.name = "/".join(run.folder.resolve().parts[-depth:])
    return runs


def _read_metrics(run):
    path = run.folder / "metrics.json"
    try:
        lines = read_text(path, errors="replace").splitlines()
    except FileNotFoundError:
        if not run.config:
            raise DataError(f"there is no {path}: is {run.folder} the OUTPUT_DIR of a training?") from None
        lines = []
    except OSError as e:
        raise DataError(f"cannot read {path} ({e.strerror or e}).") from e
    damaged, last, again = [], -1, False
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            step = int(values.pop("iteration"))
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
            if line.strip():
                damaged.append(number)
            continue
        if step < last:  # a run never goes back: from here on it is another one, or an earlier life of this one ended
            again = True
            run.metrics = {s: v for s, v in run.metrics.items() if s < step}
        last = step
        run.metrics.setdefault(step, {}).update(values)  # where rows repeat a step, the later counts
    if not run.metrics and not run.config:
        raise DataError(f"{path} has no line that can be read: is {run.folder} the OUTPUT_DIR of a training?")
    if not run.metrics:
        run.notes.append("there are no metrics: the run ended before its first 20 steps")
    run.metrics = dict(sorted(run.metrics.items()))
    if again:
        run.notes.append(
            "metrics.json lists steps twice (of two runs, or of one that was resumed): the later rows are used"
        )
    if damaged and damaged[-1] == len(lines):
        run.notes.append("the last line of metrics.json is cut off: the run was killed while it wrote")
        damaged.pop()
    if damaged:
        run.notes.append(f"lines of metrics.json that cannot be read: {', '.join(map(str, damaged))}")
    losses = [k for k in run.names() if "loss" in k]
    if any(isinstance(v.get(k), float) and not math.isfinite(v[k]) for v in run.metrics.values() for k in losses):
        run.notes.append("some losses are not finite (NaN or infinite); the curves leave them out")


def _read_config(run):
    try:
        run.config_text = read_text(run.folder / "config.yaml", errors="replace")
        run.config = compose_bounded(run.config_text)[1]
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as e:
        run.notes.append(f"config.yaml cannot be read ({e if isinstance(e, NotOrdinary) else type(e).__name__})")
    if not isinstance(run.config, dict):
        run.config = {}


def _read_log(run):
    try:
        text = ANSI.sub("", read_text(run.folder / "log.txt", errors="replace"))
    except OSError as e:
        why = e if isinstance(e, NotOrdinary) else "there is no log.txt"
        run.notes.append(f"{why}: the environment is not known")
        text = ""
    try:
        commands = read_text(run.folder / "command_line.txt", errors="replace").splitlines()
    except OSError:  # of an earlier version: the arguments as Detectron2 logs them
        commands = re.findall(r"Command line arguments: (Namespace\(.*\))", text)
    run.commands = list(dict.fromkeys(commands))  # a resumed run has several
    blocks = re.findall(r"Environment info:\s*\n-+ +-+\n(.*?)\n-+ +-+", text, flags=re.DOTALL)
    for line in blocks[-1].splitlines() if blocks else []:
        name, _, value = re.sub(r" ?@/\S+", "", line).strip().partition("  ")  # folders of a machine tell nothing
        if value.strip():
            run.environment.append((name, value.strip()))
    patterns = {"hardware": r"detectron2 INFO: Hardware: (.+)", "training time": r"Total training time: (.+)",
                "GPU memory": r"max_mem: (\w+)"}  # fmt: skip
    for name, pattern in patterns.items():
        found = re.findall(pattern, text)
        if found:
            run.environment.append((name, found[-1].strip()))
    seconds = sorted(run.curve("time")[1])
    if seconds:
        run.environment.append(("seconds a step (median)", f"{seconds[len(seconds) // 2]:.3f}"))
    seed = run.setting("SEED", "")
    drawn = re.findall(r"random seed (\d+)", text)
    run.seed = f"{drawn[-1]} (drawn)" if drawn and not (isinstance(seed, int) and seed >= 0) else str(seed)


def _check_end(run):
    planned = run.setting("SOLVER.MAX_ITER")
    if isinstance(planned, int) and run.last_step < planned:
        # metrics are written every 20 steps
        run.notes.append(
            f"the run is not finished: its metrics end at step {run.last_step} of {planned} (killed, or still running)"
        )
    if not any(isinstance(planned, int) and max(steps) >= planned for steps in run.evaluations().values()):
        run.notes.append("there is no evaluation of the end of training")
    if not list(run.folder.glob("model_*.pth")):
        run.notes.append("there is no checkpoint")
    elif not (run.folder / "model_final.pth").is_file():
        run.notes.append("there is no model_final.pth")


def list_pictures(folder):
    """Picture files of a folder, in the order of the numbers in their names."""
    folder = Path(folder)
    files = [p for p in glob_files(folder, "*") if p.suffix.lower() in PICTURE_SUFFIXES] if folder.is_dir() else []
    return sorted(files, key=lambda p: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", p.name)])
