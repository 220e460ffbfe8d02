"""Cityscapes' label maps of train ids (0 to 18, 255 = ignored): found, or made from label ids or polygons."""

import functools
import hashlib
import os
from pathlib import Path

import numpy as np

from ..utils.ordinary_files import open_picture
from ..utils.parallel import run_parallel, write_png
from .datasets.cityscapes import polygons_to_instance_ids
from .datasets.cityscapes_labels import LABELS
from .files import glob_files

IGNORED = 255


def train_ids(label_ids):
    """Label ids (H, W), of any integer type, -> train ids (H, W) uint8."""
    table = np.full(256, IGNORED, np.uint8)
    for label, train_id, _ in LABELS.values():
        if label >= 0:
            table[label] = train_id
    return table[np.clip(label_ids, 0, 255)]


def cache_folder(root):
    """The user's cache folder for a data set whose own folder cannot be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mic_det"
    return cache / hashlib.sha1(str(Path(root).resolve()).encode()).hexdigest()[:12]


def label_map_file(root, stem):
    """The label map of ``{split}/{city}/{image}``, in ``gtFine`` or in the cache; None where there is none."""
    name = f"{stem}_gtFine_labelTrainIds.png"
    return next((f for f in (Path(root) / "gtFine" / name, cache_folder(root) / name) if f.is_file()), None)


def make_label_maps(root, split, workers=None, progress=True):
    """Make the label maps that are missing, from ``*_labelIds.png`` or else ``*_polygons.json``.

    Args:
        root (path), split (str): folder of Cityscapes, "train" or "val".
        workers (int), progress (bool): None = one process a core.

    Returns:
        int: how many were made.

    Raises:
        ValueError: where a source file cannot be read; names it.
        OSError: where neither ``gtFine`` nor the cache can be written.
    """
    root, stems = Path(root), {}
    for kind in ("polygons.json", "labelIds.png"):  # the latter is preferred
        for file in glob_files(root / "gtFine" / split, f"*/*_gtFine_{kind}"):
            stems[f"{split}/{file.parent.name}/{file.name[: -len(f'_gtFine_{kind}')]}"] = file
    missing = [(stem, file) for stem, file in stems.items() if label_map_file(root, stem) is None]
    run_parallel(
        functools.partial(_make, root=root), missing, workers, f"{split} label maps", progress and bool(missing)
    )
    return len(missing)


def _make(job, root):
    stem, file = job
    if file.suffix == ".json":
        ids = polygons_to_instance_ids(file)
        labels = np.where(ids >= 1000, ids // 1000, ids)
    else:
        try:
            with open_picture(file) as opened:
                labels = np.asarray(opened)
        except (OSError, SyntaxError) as e:
            raise ValueError(f"{file} cannot be read ({e}): unpack it again") from e
    name = f"{stem}_gtFine_labelTrainIds.png"
    try:
        write_png(root / "gtFine" / name, train_ids(labels))
    except OSError:
        write_png(cache_folder(root) / name, train_ids(labels))
