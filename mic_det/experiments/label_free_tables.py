"""Files of ``mic-det select`` and ``mic-det estimate`` as tables of a report."""

import json
from dataclasses import dataclass, field

from ..errors import DataError
from ..utils.ordinary_files import read_text


@dataclass
class Table:
    """``head`` and ``rows`` are texts; ``sentences`` stand above, ``warning`` ("" = none) before them."""

    title: str
    sentences: list
    head: list
    rows: list = field(default_factory=list)
    warning: str = ""


def read_table(file):
    """The table of one file.

    Raises:
        DataError: where it is of neither program.
    """
    try:
        content = json.loads(read_text(file))
        kind = content["format"]
        return {"mic_det select 1": _selection, "mic_det estimate 1": _estimate}[kind](content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise DataError(
            f"{file} is no file of `mic-det select` or `mic-det estimate` of this version ({type(e).__name__}: {e})."
        ) from e


def _selection(content):
    checkpoints = content["checkpoints"]
    names = list(dict.fromkeys(n for c in checkpoints for n in c["criteria"]))
    judged = ["AP50"] if content["judge"] else []
    sentences = [
        f"Chosen: {content['best']}. It is the best of {len(checkpoints)} checkpoints in {content['sure']:.0%} of the "
        f"resamplings of {content['num_images']} images of {content['images']}.",
        f"The score combines {', '.join(content['combination'])}. It uses no labels of the target.",
    ]
    lost = [c for c in checkpoints if c.get("lost_classes")]
    if lost:
        named = (f"{c['run']}, step {c['step']} ({', '.join(c['lost_classes'])})" for c in lost)
        sentences.append(f"These have score 0, as they have lost a class of their start: {'; '.join(named)}.")
    if content["above_start"] is not None:
        sentences.append(f"It is better than its start in {content['above_start']:.0%} of the resamplings.")
    if judged:
        sentences.append(f"AP50 is that on {content['judge']}. It took no part in the choice.")
    warning = ""
    if content["start_is_best"]:
        warning = "The start looks better than every adapted checkpoint."
    if not content["complete"]:
        warning = f"{warning} The program ended before all checkpoints were measured.".strip()
    rows = []
    for c in checkpoints:
        values = [c["criteria"].get(n) for n in names]
        rows.append(
            [f"{c['run']}, step {c['step']}", _number(c["score"], 3), *(_number(c.get(x), 1) for x in judged)]
            + [_number(v, 3) for v in values]
        )
    head = ["checkpoint", "score", *judged, *names]
    return Table("Chosen without target labels", sentences, head, rows, warning)


def _estimate(content):
    known = [x["AP50"] for x in content["meta_set"] if x["AP50"] is not None]
    sentences = [
        f"Of {content['weights']} on {content['num_images']} images of {content['images']}, with 90 % intervals.",
        f"Based on {len(known)} corrupted copies of {content['source_images']} images of {content['source']}, with "
        f"AP50 from {min(known):.1f} to {max(known):.1f}.",
        f"It uses the labels of {content['labels']} target images."
        if content["labels"]
        else "It uses no target labels.",
    ]
    rows = []
    for name, x in [("all classes", content["AP50"]), *content["classes"].items()]:
        cells = ["–"] * 3 if x is None else [_number(x[k], 1) for k in ("value", "low", "high")]
        rows.append([name, *cells])
    outside = content["AP50"]["outside"]
    warning = f"The target images are unlike all copies ({', '.join(outside)}): this is a guess." if outside else ""
    return Table("Estimate of AP50", sentences, ["class", "AP50", "low", "high"], rows, warning)


def _number(value, digits):
    return "–" if value is None else f"{value:.{digits}f}"
