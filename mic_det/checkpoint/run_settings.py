"""What the steps of a run depend on, as texts that a checkpoint keeps and that are compared when it is resumed."""

import contextlib
import functools
import json

import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ..config import (
    add_mic_config,
    current_settings,
    flat_keys,
    value_of,
)
from ..data.classes import known_class_names
from ..data.fingerprint import (
    annotation_fingerprint,
    file_fingerprints,
    labeller_fingerprint,
)
from ..data.target_labels import LABELLED_TARGET

# Settings that do not change what is learned from which batch, or are told apart by other means
FREE = (
    "CUDNN_BENCHMARK", "DATALOADER.NUM_WORKERS", "DATALOADER.WORKER_TIMEOUT", "DATASETS.CUSTOM", "DATASETS.TEST",
    "GLOBAL", "INPUT.MAX_SIZE_TEST", "INPUT.MIN_SIZE_TEST", "MODEL.BACKBONE.MIN_MATCHED_KEYS", "MODEL.MIC.EVALUATE",
    "MODEL.WEIGHTS", "LOG", "OUTPUT_DIR", "SEED", "SOLVER.CHECKPOINT_KEEP", "SOLVER.CHECKPOINT_PERIOD", "TEST",
    "VERSION", "VIS_PERIOD",
)  # fmt: skip
LENGTH, LENGTH_COUNTS = "SOLVER.MAX_ITER", "steps depend on SOLVER.MAX_ITER"
CLASSES, PIXEL_CLASSES = "classes of DATASETS.TRAIN", "pixel classes of DATASETS.TRAIN"
LENGTHS = (LENGTH, LENGTH_COUNTS)
# by the name of a domain in the loader
SETS_OF = {"source": "DATASETS.TRAIN", "target": "DATASETS.TARGET", LABELLED_TARGET: "DATASETS.TARGET_LABELLED"}
SETS = tuple(SETS_OF.values())
LABELLER_FILE = "the file MODEL.MIC.LABELLER.JSON"
# begin the entries of data_settings; a copy of the same data has other times alone
FINGERPRINTS = ANNOTATIONS, NAMES, TIMES = "annotations of", "names or sizes of the files of", "times of the files of"


def config_settings(cfg):
    """The config's keys that steps depend on, as a flat dict of texts."""
    keys = [k for k in flat_keys(cfg) if not any(k == x or k.startswith(x + ".") for x in FREE)]
    return {**{k: _text(value_of(cfg, k)) for k in keys}, LENGTH_COUNTS: str(_length_counts(cfg))}


def run_settings(cfg, loader):
    """:func:`config_settings`, and: sizes of the sets, class names, number of processes, PyTorch.

    Args:
        loader (TwoDomainLoader): of the training.
    """
    sizes = {d["name"]: len(d["dicts"]) for d in loader.domains}
    named = [MetadataCatalog.get(name) for name in (*cfg.DATASETS.TRAIN[:1], *cfg.DATASETS.TARGET_LABELLED[:1])]
    return {
        **config_settings(cfg),
        **{f"images of {key}": str(sizes.get(name, 0)) for name, key in SETS_OF.items()},
        CLASSES: json.dumps(list(known_class_names(cfg))),
        PIXEL_CLASSES: json.dumps(list(named[0].get("stuff_classes", ()) if named else ())),
        "number of processes": str(comm.get_world_size()),
        "PyTorch": str(torch.__version__),
    }


def data_settings(cfg, loader):
    """Fingerprints of annotations and files. About a second for 100,000 images; one process need do it.

    Images that were changed where neither name, size nor time tells are not noticed.
    """
    found = {}
    for domain in loader.domains:
        key = SETS_OF[domain["name"]]
        if domain["name"] != "target":  # of the unlabelled target, nothing but images is used
            found[f"{ANNOTATIONS} {key}"] = annotation_fingerprint(value_of(cfg, key), domain["dicts"])
        elif cfg.MODEL.MIC.LABELLER.JSON:
            found[f"{ANNOTATIONS} {LABELLER_FILE}"] = labeller_fingerprint(domain["dicts"])
        names, times = file_fingerprints(domain["dicts"])
        found[f"{NAMES} {key}"], found[f"{TIMES} {key}"] = names, times
    return found


def changed_settings(before, now):
    """``KEY: was X, is Y`` for each setting that differs, or that only one of the two has.

    A config key that the other did not have yet counts as its default; other entries are compared where both have them.
    """
    before, now = current_settings(before), current_settings(now)  # a checkpoint may have old names of keys
    # earlier versions left the length out where it did not count
    counted = before.get(LENGTH_COUNTS, str(LENGTH in before))
    ignored = {LENGTH_COUNTS} if "True" in (counted, now.get(LENGTH_COUNTS)) and LENGTH in before else {*LENGTHS}
    # where names or sizes differ, times tell nothing more
    ignored |= {f"{TIMES} {s}" for s in SETS if before.get(f"{NAMES} {s}") != now.get(f"{NAMES} {s}")}
    changes = []
    for key in sorted({*before, *now} - ignored):
        old, new = (x.get(key, _default_text(key)) for x in (before, now))
        if None not in (old, new) and _as_list(old) != _as_list(new):
            changes.append(f"{key} have changed" if key.startswith(FINGERPRINTS) else f"{key}: was {old}, is {new}")
    return changes


def moved_classes(before, now):
    """A sentence where as many classes as before have another order, which makes predictions wrong; else ""."""
    for key in (CLASSES, PIXEL_CLASSES):
        old, new = _names(before.get(key, "[]")), _names(now[key])
        moved = [c for i, c in enumerate(old) if len(old) == len(new) and c in new and new[i] != c]
        if moved:
            return (
                f"the {key} are {new}, but were {old}: {moved[0]!r} has another number, so what was learned would "
                "count for other classes. Put them back in their order, or start a new run in another OUTPUT_DIR."
            )
    return ""


def _names(text):
    with contextlib.suppress(ValueError, RecursionError):
        names = json.loads(text)
        return names if isinstance(names, list) else []
    return []


@functools.lru_cache(maxsize=1)
def _defaults():
    cfg = get_cfg()
    add_mic_config(cfg)
    return cfg


def _default_text(key):
    """The text of a config key's default; None where there is no such key."""
    value = value_of(_defaults(), key, default=_defaults)
    return None if value is _defaults else _text(value)


def _length_counts(cfg):
    """Whether the first steps of a run depend on how long it is to be: then it cannot be made longer exactly."""
    solver, a = cfg.SOLVER, cfg.MODEL.MIC.ALIGNMENT
    # Detectron2 squeezes a warm-up that is longer than the run
    free = solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and solver.WARMUP_ITERS <= solver.MAX_ITER
    return not (free and not solver.RESCALE_INTERVAL and (a.SCHEDULE == "constant" or a.RAMP_STEPS))


def _text(value):
    return str(list(value) if isinstance(value, tuple) else value)  # tuples and lists mean the same


def _as_list(text):
    """A text in which tuples inside of lists are lists, as they are in a config.yaml that Detectron2 has written."""
    return text.replace(",)", ")").translate(str.maketrans("()", "[]"))
