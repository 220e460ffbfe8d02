"""Rank checkpoints on unlabelled target images."""

import json
import logging
import math
import os
import sys
from pathlib import Path

from ..config.roles import LABELS, MASK, SELF_TRAINING
from ..data.classes import label_names, model_class_names
from ..errors import DataError
from ..evaluation.label_free.criteria import CRITERIA
from ..evaluation.label_free.lost_classes import LOST, class_scores, least_scores, lost_classes, named
from ..evaluation.label_free.measure import judged_kind, needs_source
from ..evaluation.label_free.ranking import COMBINATION, choose, combined, resampled_scores
from ..experiments.run_checkpoints import ImageSets, measure_runs, read_runs
from ..utils.outputs import Outputs
from ..utils.own_code import import_own_code
from ..utils.printable import printable
from ..utils.progress import progress_bar

FORMAT = "mic_det select 1"
UNSURE = 0.5  # share of resamplings below which a choice is called unsure


def main(args):
    import_own_code(args.modules)
    output = Path(args.output)
    outputs = Outputs(output.parent, "select", [c for r in args.runs for c in Path(r).glob("*.pth")], args.overwrite)
    outputs.check([output.name])
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    logging.getLogger("fvcore").setLevel(logging.WARNING)
    runs = read_runs(args.runs, args.opts, args.start)
    criteria = tuple(CRITERIA if args.criteria == "all" else COMBINATION)
    sets = ImageSets(args.images, args.max_images, args.source_images if needs_source(criteria) else 0)
    rows, resampled = [], []
    kind = judged_kind(runs[0].cfg)
    with progress_bar(sum(len(r.checkpoints) for r in runs), "checkpoint") as progress:
        skip = lambda c, why: progress.write(printable(f"{c.file} is left out: {why}"), file=sys.stderr)  # noqa: E731
        for row in measure_runs(runs, sets, criteria, args.judge, args.trust_checkpoint, skip=skip):
            lost = lost_of(row, rows, kind)
            row.lost = named(lost, names_of(runs, row.checkpoint, kind)) if lost else []
            rows.append(row)
            resampled.append(resampled_scores(row.measured) * (not lost))
            write(args, outputs, output.name, rows, resampled, sets.target_name(runs[0].cfg), complete=False)
            progress.update()
    for note in sets.notes:
        print(printable(note), file=sys.stderr)
    content = write(args, outputs, output.name, rows, resampled, sets.target_name(runs[0].cfg))
    if all(c["score"] is None for c in content["checkpoints"]):
        raise DataError("none of the criteria can be measured of these models on these images.")
    print_table(content)
    print_choice(content, output)


def names_of(runs, checkpoint, kind):
    """Names of the classes of a checkpoint's model; the sets may not have been loaded yet."""
    cfg = next((r.cfg for r in runs if checkpoint in r.checkpoints), runs[0].cfg)
    return label_names(cfg, kind) if kind == "pixels" else model_class_names(cfg) or ()


def lost_of(row, before, kind):
    """Classes that a checkpoint has lost against the start of its run, which comes before it; [] without one.

    A start that is also a checkpoint of another run before it is compared with the start of that run.
    """
    file, run = os.path.realpath(row.checkpoint.file), row.checkpoint.run
    if row.checkpoint.start:
        same = (r.checkpoint for r in before if os.path.realpath(r.checkpoint.file) == file)
        run = next((c.run for c in same if not c.start), None)
    start = next((r.measured for r in before if r.checkpoint.start and run in r.checkpoint.runs), None)
    if start is None:
        return []
    return lost_classes(class_scores(start), class_scores(row.measured), least_scores(kind, len(start)))


def write(args, outputs, name, rows, resampled, images, complete=True):
    """Write the JSON file, also after each checkpoint: a program that is ended early leaves what it has measured."""
    content = {"complete": complete, **report(args, rows, resampled, images)}
    outputs.write_text(name, json.dumps(content, indent=1))
    return content


def report(args, rows, resampled, images):
    """The content of the JSON file: the best checkpoint first."""
    scores = [0.0 if row.lost else combined(row.measured.values) for row in rows]
    choice = choose(scores, resampled, [row.checkpoint.start for row in rows])
    found = []
    for i in choice.order:
        c, row = rows[i].checkpoint, rows[i]
        entry = {"run": c.run, "step": c.step, "start": c.start, "file": c.file, "score": _finite(scores[i])}
        entry["criteria"] = {name: _finite(v) for name, v in row.measured.values.items()}
        if c.start:
            entry["runs"] = c.runs
        else:
            entry["training"] = c.training
        entry["lost_classes"] = row.lost
        if row.truth is not None:
            entry["AP50"] = _finite(row.truth["AP50"])
            entry["AP50 by class"] = {k[5:]: _finite(v) for k, v in row.truth.items() if k != "AP50"}
        found.append(entry)
    return {
        "format": FORMAT, "images": images, "num_images": len(rows[0].measured), "judge": args.judge,
        "combination": COMBINATION, "best": found[0]["file"], "sure": choice.sure, "above_start": choice.above_start,
        "start_is_best": choice.start_is_best, "checkpoints": found,
    }  # fmt: skip


def _finite(value):
    return value if math.isfinite(value) else None


def print_table(content):
    names = [n for n in COMBINATION if any(n in c["criteria"] for c in content["checkpoints"])]
    judged = ["AP50"] if content["judge"] else []
    print(f"{'score':>7s} {'step':>7s}" + "".join(f" {n:>18s}" for n in [*names, *judged]) + "  run")
    for c in content["checkpoints"]:
        values = [c["criteria"].get(n) for n in names] + [c.get("AP50")] * len(judged)
        cells = "".join(f" {v:18.3f}" if v is not None else f" {'-':>18s}" for v in values)
        score = "      -" if c["score"] is None else f"{c['score']:7.3f}"
        print(printable(f"{score} {c['step']:7d}{cells}  {c['run']}"))


def print_choice(content, output):
    best, count = content["checkpoints"][0], len(content["checkpoints"])
    print()
    print(printable(f"Ship {best['file']}"))
    if count > 1:
        print(
            f"It is the best of {count} checkpoints in {content['sure']:.0%} of {content['num_images']} images' "
            "resamplings" + (": the choice is not sure." if content["sure"] < UNSURE else ".")
        )
    if content["above_start"] is not None:
        print(f"It is better than its start in {content['above_start']:.0%} of them.")
    if content["start_is_best"]:
        print("Warning: the start looks better than every adapted checkpoint. The adaptation did not help.")
    for line in lost_a_class(content["checkpoints"]):
        print(printable(line))
    for line in mixed_training(content["checkpoints"]):
        print(printable(line))
    print(printable(f"{output}: all criteria"))


def lost_a_class(checkpoints):
    """What to print of checkpoints that have lost classes; [] where there are none."""
    found = [f"{c['run']}, step {c['step']}: {', '.join(c['lost_classes'])}" for c in checkpoints if c["lost_classes"]]
    if not found:
        return []
    return [
        "Warning: these have lost classes of their start, so their score is 0:",
        *found,
        f"The scores of each such class sum to less than {LOST:.0%} of those of the start. If the target shows nothing "
        "of that kind, the start was wrong, not these checkpoints: compare pictures.",
    ]


def mixed_training(checkpoints):
    """What to print where runs that were trained in different ways are compared; [] where there is nothing to say."""
    ways = {}
    for c in checkpoints:
        if not c["start"]:
            ways.setdefault(c["training"], set()).add(c["run"])
    if len(ways) < 2:
        return []
    kinds = [f"{way} ({', '.join(sorted(ways[way]))})" for way in (MASK, SELF_TRAINING, LABELS) if way in ways]
    return [
        f"Warning: these runs were trained in different ways: {', '.join(kinds)}. The score favours the former.",
        "It measures whether predictions agree with each other, and that is what self-training teaches. So this order "
        "is no proof. Compare different ways with labels (docs/choosing.md).",
    ]
