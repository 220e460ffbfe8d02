"""A full check of a config's data sets: every file is opened, every box looked at, and sets are compared."""

import hashlib
import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..config.label_kinds import label_kinds
from ..errors import ConfigError, DataError
from ..utils.parallel import run_parallel
from ..utils.printable import printable
from .coco.normalize import normalize_coco
from .custom_sets import read_coco, resolve_path
from .files import list_files
from .label_checks import labels_of
from .pixels import (
    EXIF_TURNED,
    ImageError,
    Resize,
    annotated_size,
    check_image,
    check_ordinary,
)
from .run_sets import check_roles, labels_notes, missing_image_hint
from .target_labels import has_all_labels, labelled_target_images, target_images

FEW = 1000  # images of all sets that one process checks by default, as each process takes seconds to start
UNLISTED = "images beside the listed ones are not in the JSON"  # a note
TINY = 2  # pixels; a side below it can hardly be learned


@dataclass
class SetReport:
    """What was found in one set: ``problems`` stop a training or spoil its numbers, ``notes`` do not.

    ``unusable``: image file -> its line in ``problems``. ``hashes``: SHA-1 -> the image files that have it.
    """

    role: str
    name: str
    images: int = 0
    boxes: int = 0
    sizes: Counter = field(default_factory=Counter)
    per_class: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    unusable: dict = field(default_factory=dict)
    hashes: dict = field(default_factory=dict)


def check_config_datasets(cfg, workers=None, progress=True):
    """Check every set that ``DATASETS.TRAIN``, ``TARGET`` and ``TEST`` name.

    Args:
        cfg (CfgNode): a config with mic_det's keys, whose declared sets are registered.
        workers (int): processes. None = one for each core, or this process alone where there are few images.
        progress (bool): show a progress bar a set.

    Returns:
        (list[SetReport], list[str]): one report a set, and problems between sets or with the config.
    """
    reports, problems, kinds = [], [], labels_of(cfg)
    try:
        check_roles(cfg)
    except ConfigError as e:
        problems.append(str(e))
    loaded = []
    for role in ("TRAIN", "TARGET_LABELLED", "TARGET", "TEST"):
        for name in cfg.DATASETS[role]:
            report = SetReport(role, name)
            reports.append(report)
            learned = kinds if role != "TARGET" else []
            loaded.append((report, learned, _load(report, learned)))
    if workers is None and sum(len(dicts) for _, _, dicts in loaded) < FEW:
        workers = 1
    for report, learned, dicts in loaded:
        role, name = report.role, report.name
        if dicts and role == "TARGET_LABELLED":  # its other images are unlabelled ones
            dicts = [x for x in dicts if has_all_labels(x, label_kinds(cfg))]
            report.problems += [f"{name}: no image has labels."] * (not dicts)
        if dicts:
            if role != "TARGET":
                report.notes += [note[len(name) + 2 :] for note in labels_notes(name, dicts)]
            for kind in learned:
                try:
                    kind.check(role, name, dicts)
                except DataError as e:
                    report.problems.append(str(e))
                report.problems += kind.file_problems(name, dicts, workers, progress)
            _count(report, dicts, list(MetadataCatalog.get(name).get("thing_classes", [])))
            _open_all(report, dicts, Resize.from_config(cfg, is_train=role != "TEST"), workers, progress)
    if cfg.DATASETS.TARGET and not any(r.problems for r in reports):
        try:
            target_images(cfg, [x for dicts in labelled_target_images(cfg).values() for x in dicts])
        except (ConfigError, DataError) as e:
            problems.append(str(e))
    return reports, problems + _duplicates(reports)


def _load(report, kinds):
    """A set's dicts; where it cannot be loaded, all that is wrong with it instead."""
    name = report.name
    if name not in DatasetCatalog.list():
        report.problems.append(f"{name} is neither registered nor in DATASETS.CUSTOM.")
        return []
    declared = MetadataCatalog.get(name).get("declared")
    try:
        for kind in kinds:
            kind.prepare(name)
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
        report.notes.append(f"{len(unlisted)} {UNLISTED}: {unlisted[0]}, ...")


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
    of_images = Counter(d["image_class"] for d in dicts if "image_class" in d)
    counts += of_images
    report.per_class = {c: counts[i] for i, c in enumerate(classes)}
    absent = [c for c, n in report.per_class.items() if not n]
    if absent:
        report.notes.append(f"no {'image' if of_images else 'box'} of {', '.join(absent)}.")
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
            report.unusable[file] = f"{report.name}: {file} {error}.{meant}"
            report.problems.append(report.unusable[file])
            continue
        report.sizes[facts.size] += 1
        report.hashes.setdefault(digest, []).append(file)
        odd.update(_oddities(facts, file, report.role))
    for (what, remedy), count in odd.items():
        report.notes.append(f"{count} images {what}, {remedy}.")
    twice = [f for f, n in Counter(files).items() if n > 1]
    if twice:
        report.problems.append(f"{report.name} lists {len(twice)} images more than once, such as {twice[0]}.")


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


def copies_of_test_images(reports, role):
    """Images of a role that are test images: the same file, or one of the same content.

    Args:
        reports (list[SetReport])
        role (str): "TRAIN" or "TARGET".

    Returns:
        dict[str, tuple]: image file -> (name of its set, the test image, name of the test set).
    """
    tests = {}
    for report in reports:
        for digest, files in report.hashes.items() if report.role == "TEST" else ():
            tests.setdefault(digest, (files[0], report.name))
    found = {}
    for report in reports:
        for digest, files in report.hashes.items() if report.role == role else ():
            found.update({file: (report.name, *tests[digest]) for file in files if digest in tests})
    return found


def _duplicates(reports):
    """Problems where a test image is trained on."""
    problems = []
    for role in ("TRAIN", "TARGET_LABELLED", "TARGET"):
        found = copies_of_test_images(reports, role)
        if found:
            file = min(found)
            name, copy, test = found[file]
            count = len({(image, of) for _, image, of in found.values()})
            problems.append(
                f"{count} test images are in DATASETS.{role} too, such as {file} of {name} and {copy} of {test}. "
                "Remove them from one of the two."
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
