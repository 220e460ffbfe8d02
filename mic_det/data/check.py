"""A full check of a config's data sets: every file is opened, every box looked at, and sets are compared."""

import hashlib
import io
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from ..config import ConfigError, needs_boxes, needs_sem_seg
from ..printable import printable
from .builtin import prepare_label_maps
from .catalog import DataError, read_coco, resolve_path
from .coco_normalize import normalize_coco
from .files import list_files
from .parallel import run_parallel
from .pixels import EXIF_TURNED, ImageError, Resize, annotated_size, check_image, check_label_map, check_ordinary
from .run_sets import (
    check_classes,
    check_label_maps,
    check_masks,
    check_roles,
    labels_notes,
    missing_image_hint,
)

TINY = 2  # pixels; a side below it can hardly be learned


@dataclass
class SetReport:
    """What was found in one set: ``problems`` stop a training or spoil its numbers, ``notes`` do not."""

    role: str
    name: str
    images: int = 0
    boxes: int = 0
    sizes: Counter = field(default_factory=Counter)
    per_class: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    hashes: dict = field(default_factory=dict)


def check_config_datasets(cfg, workers=None, progress=True):
    """Check every set that ``DATASETS.TRAIN``, ``TARGET`` and ``TEST`` name.

    Args:
        cfg (CfgNode): a config with mic_det's keys, whose declared sets are registered.
        workers (int): processes; None = one a core.
        progress (bool): show a progress bar a set.

    Returns:
        (list[SetReport], list[str]): one report a set, and problems between sets or with the config.
    """
    reports, problems, first = [], [], None
    try:
        check_roles(cfg)
    except ConfigError as e:
        problems.append(str(e))
    for role in ("TRAIN", "TARGET", "TEST"):
        for name in cfg.DATASETS[role]:
            report = SetReport(role, name)
            reports.append(report)
            dicts = _load(report, label_maps=needs_sem_seg(cfg) and role != "TARGET")
            if not dicts:
                continue
            classes = list(MetadataCatalog.get(name).get("thing_classes", []))
            if role != "TARGET":
                first = first or (name, classes)
                report.notes += [note[len(name) + 2 :] for note in labels_notes(name, dicts)]
                try:
                    if needs_boxes(cfg):
                        check_classes(cfg, role, name, classes, first, dicts)
                        check_masks(cfg, role, name, dicts)
                    if needs_sem_seg(cfg):
                        check_label_maps(cfg, role, name, dicts)
                except DataError as e:
                    report.problems.append(str(e))
                if needs_sem_seg(cfg):
                    _open_label_maps(report, dicts, cfg.MODEL.SEM_SEG_HEAD, workers, progress)
            _count(report, dicts, classes)
            _open_all(report, dicts, Resize.from_config(cfg, is_train=role != "TEST"), workers, progress)
    return reports, problems + _duplicates(reports)


def _load(report, label_maps):
    """A set's dicts; where it cannot be loaded, all that is wrong with it instead."""
    name = report.name
    if name not in DatasetCatalog.list():
        report.problems.append(f"{name} is neither registered nor in DATASETS.CUSTOM.")
        return []
    declared = MetadataCatalog.get(name).get("declared")
    try:
        if label_maps:
            prepare_label_maps(name)
        dicts = DatasetCatalog.get(name)
    except DataError as e:
        report.problems.append(str(e))
        if declared and declared[0]:
            report.problems += _all_problems(name, resolve_path(declared[0]), seen=str(e))
        return []
    if declared and declared[0]:
        _note_unlisted(report, dicts, resolve_path(declared[1]))
    return dicts


def _all_problems(name, path, seen):
    try:
        return [p for p in normalize_coco(name, path, read_coco(name, path)).problems if p != seen]
    except (DataError, KeyError):  # the file as a whole is wrong, which was said already
        return []


def _note_unlisted(report, dicts, folder):
    listed = {Path(d["file_name"]).resolve() for d in dicts}
    parents = {p.parent for p in listed}
    there = list_files(folder, {p.suffix.lower() for p in listed})
    unlisted = [p for p in there if p.resolve() not in listed and p.resolve().parent in parents]
    if unlisted:
        report.notes.append(f"{len(unlisted)} images beside the listed ones are not in the JSON: {unlisted[0]}, ...")


def _count(report, dicts, classes):
    report.images = len(dicts)
    if report.role == "TARGET":
        return
    counts, tiny, outside = Counter(), 0, 0
    for d in dicts:
        for a in d.get("annotations", []):
            if a.get("iscrowd", 0):
                continue
            counts[a["category_id"]] += 1
            x0, y0, x1, y1 = BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            tiny += min(x1 - x0, y1 - y0) < TINY
            outside += min(x0, y0) < -1 or x1 > d["width"] + 1 or y1 > d["height"] + 1
    report.boxes = sum(counts.values())
    report.per_class = {c: counts[i] for i, c in enumerate(classes)}
    absent = [c for c, n in report.per_class.items() if not n]
    if absent:
        report.notes.append(f"no box of {', '.join(absent)}.")
    if tiny:
        report.notes.append(f"{tiny} boxes have a side of less than {TINY} pixels.")
    if outside:
        report.notes.append(f"{outside} boxes reach outside their image by more than a pixel; they will be cut.")


def _open_all(report, dicts, resize, workers, progress):
    files, odd = [d["file_name"] for d in dicts], Counter()
    # nothing that a target set says of its images counts, sizes included
    sizes = [None if report.role == "TARGET" else annotated_size(d) for d in dicts]
    jobs = [(file, size, resize) for file, size in zip(files, sizes)]
    found = run_parallel(open_image, jobs, workers, report.name, progress)
    hint = missing_image_hint(report.name)
    for file, (facts, digest, error) in zip(files, found):
        if error:
            meant = "" if Path(file).exists() else hint(file)
            report.problems.append(f"{report.name}: {file} {error}.{meant}")
            continue
        report.sizes[facts.size] += 1
        report.hashes.setdefault(digest, file)
        odd.update(_oddities(facts, file, report.role))
    for (what, remedy), count in odd.items():
        report.notes.append(f"{count} images {what}, {remedy}.")
    twice = [f for f, n in Counter(files).items() if n > 1]
    if twice:
        report.problems.append(f"{report.name} lists {len(twice)} images more than once, such as {twice[0]}.")


def _open_label_maps(report, dicts, head, workers, progress):
    """Label maps that are there must be readable, of their image's size and of labels below ``NUM_CLASSES``."""
    pairs = [(d["sem_seg_file_name"], d["file_name"]) for d in dicts if d.get("sem_seg_file_name")]
    jobs = [(file, image, head.NUM_CLASSES, head.IGNORE_VALUE) for file, image in pairs if Path(file).is_file()]
    found = run_parallel(label_map_problem, jobs, workers, f"{report.name} label maps", progress)
    report.problems += [f"{report.name}: {problem}" for problem in found if problem]


def label_map_problem(job):
    """What is wrong with (label map, its image, number of classes, ignored label), or None."""
    file, image_file, num_classes, ignored = job
    try:
        check_label_map(file, decode=True)
        with Image.open(file) as opened:
            labels = np.asarray(opened)
    except ImageError as e:
        return f"label map {file} {e}."
    try:
        size = check_image(image_file, decode=True).size[::-1]
    except ImageError as e:
        return f"the image {image_file} of label map {file} {e}."
    if labels.shape != size:
        return f"{file} has the shape {labels.shape}, its image {size}."
    wrong = labels[(labels != ignored) & ((labels < 0) | (labels >= num_classes))]
    return f"{file} has the label {wrong[0]}: there are {num_classes} classes." if wrong.size else None


def open_image(job):
    """Decode (file, annotated size, Resize): (ImageFacts, SHA-1 of the file, None) or (None, None, what is wrong)."""
    file, annotated, resize = job
    try:
        check_ordinary(file)
        content = Path(file).read_bytes()
        facts = check_image(io.BytesIO(content), annotated, resize, decode=True)
        return facts, hashlib.sha1(content).hexdigest(), None
    except ImageError as e:
        return None, None, str(e)
    except FileNotFoundError:
        return None, None, "is missing"
    except OSError as e:
        return None, None, f"cannot be read ({e})"


def _oddities(facts, file, role):
    """(what, remedy) of an image that can be used, but perhaps not as its owner thinks."""
    if facts.transparent:
        yield "have transparency", f"which is dropped: colours of transparent pixels are seen (such as {file})"
    if facts.mode == "CMYK":
        yield "are CMYK", f"which becomes RGB without a colour profile (such as {file})"
    if role != "TARGET" and facts.orientation not in (1, *EXIF_TURNED) and 1 < facts.orientation < 9:
        yield "are flipped or turned by half by their EXIF tag", f"see that boxes are drawn that way (such as {file})"


def _duplicates(reports):
    """Problems where a test image is trained on: the very file, or a copy of it."""
    by_role = defaultdict(dict)
    for report in reports:
        for digest, file in report.hashes.items():
            by_role[report.role].setdefault(digest, (report.name, file))
    problems = []
    for role in ("TRAIN", "TARGET"):
        common = by_role[role].keys() & by_role["TEST"].keys()
        if common:
            (name, file), (test, copy) = min((by_role[role][d], by_role["TEST"][d]) for d in common)
            problems.append(
                f"{len(common)} test images are in DATASETS.{role} too, such as {file} of {name} and {copy} of {test}."
            )
    return problems


def format_reports(reports):
    """The table: one line a set, then what is in it."""
    lines = [f"{'role':6s} {'images':>7s} {'boxes':>8s}  {'pixels':21s}  set"]
    for r in reports:
        common = r.sizes.most_common(1)[0][0] if r.sizes else ("-", "-")
        more = f" + {len(r.sizes) - 1} sizes" if len(r.sizes) > 1 else ""
        boxes = "-" if r.role == "TARGET" else r.boxes
        lines.append(f"{r.role:6s} {r.images:7d} {boxes:>8}  {f'{common[0]} x {common[1]}{more}':21s}  {r.name}")
        if r.per_class:
            lines.append(" " * 9 + ", ".join(f"{c} {n}" for c, n in r.per_class.items()))
        lines += [f"{'':9s}note: {printable(note)}" for note in r.notes]
    return "\n".join(lines)
