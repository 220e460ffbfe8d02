"""The checkpoints of run folders, and measuring them one after the other."""

import contextlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_on_dataset

from ..checkpoint.checkpointer import MICCheckpointer
from ..checkpoint.formats import read_torch
from ..checkpoint.storage import FINAL, numbered_checkpoints
from ..config.label_kinds import label_kinds, num_classes
from ..config.roles import way_of_training
from ..data.custom_sets import register_declared_datasets
from ..data.loader import build_test_loader
from ..engine.setup import get_mic_cfg
from ..errors import CheckpointError, ConfigError, DataError
from ..evaluation.coco import DetectionEvaluator
from ..evaluation.label_free.measure import (
    dicts_of,
    evenly,
    judged_kind,
    measure,
    read_source,
    read_unlabelled,
)
from ..inference.media import find_images
from ..modeling.build import build_checked_model

logger = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """One file of weights.

    Attributes:
        step (int): optimizer steps of its run.
        start (bool): whether it is what runs began with; runs (list[str]): these runs.
        training (str): of its run, see :func:`way_of_training`; "" for a start.
    """

    run: str
    file: str
    step: int
    start: bool = False
    runs: list = field(default_factory=list)
    training: str = ""


@dataclass
class RunConfig:
    """A run folder: its name in reports, its config and its checkpoints."""

    name: str
    cfg: object
    checkpoints: list


def read_runs(folders, opts=(), start=""):
    """The runs of folders, and the checkpoints that they started from.

    Args:
        folders (sequence of path): ``OUTPUT_DIR`` of trainings.
        opts (sequence): keys and values that replace those of the runs' configs.
        start (str): file of weights to compare with; "" = ``MODEL.WEIGHTS`` of each run.

    Returns:
        list[RunConfig]: a start is the first checkpoint of the first run that began with it.

    Raises:
        DataError: where a folder is none of a run, or has no checkpoint.
        ConfigError: where the models have different kinds of predictions.
    """
    names = _names(folders)
    runs, starts = [], {}
    for folder, name in zip(folders, names):
        config = Path(folder) / "config.yaml"
        if not config.is_file():
            raise DataError(f"there is no {config}: name the OUTPUT_DIR of a training.")
        cfg = get_mic_cfg(str(config), opts)
        training = way_of_training(cfg)
        found = [Checkpoint(name, file, step, training=training) for step, file in checkpoint_files(folder)]
        if not found:
            raise DataError(f"{folder} has no checkpoint (model_*.pth).")
        runs.append(RunConfig(name, cfg, found))
        weights = start or cfg.MODEL.WEIGHTS
        if start and not os.path.isfile(start):
            raise DataError(f"--start {start}: there is no such file.")
        if os.path.isfile(weights) and os.path.realpath(weights) not in {os.path.realpath(c.file) for c in found}:
            known = starts.get(os.path.realpath(weights))
            if known is None:
                known = Checkpoint(f"start of {name}", weights, 0, start=True)
                starts[os.path.realpath(weights)] = known
                found.insert(0, known)
            known.runs.append(name)
        elif weights and not start and "://" not in weights:
            logger.warning("%s: its start %s is not here, so it is not compared with it (--start FILE).", name, weights)
    kinds = {judged_kind(run.cfg): run.name for run in runs}
    if len(kinds) > 1:
        (first, a), (second, b) = list(kinds.items())[:2]
        raise ConfigError(f"{a} predicts {first} and {b} predicts {second}: their scores cannot be compared.")
    return runs


def _names(folders):
    """The folders' own names, with those above where two are the same."""
    paths = [Path(f).resolve() for f in folders]
    if len(set(paths)) < len(paths):
        raise DataError("a run folder is named twice.")
    for depth in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join(p.parts[-depth:]) for p in paths]
        if len(set(names)) == len(names):
            break
    return names


def checkpoint_files(folder):
    """(steps done, path) of a run's checkpoints, oldest first; the last step is ``model_final.pth``."""
    found = [(step + 1, path) for step, path in numbered_checkpoints(folder)]
    final = os.path.join(folder, FINAL)
    if os.path.isfile(final):
        step = read_torch(final, mmap=True).get("iteration")
        step = step + 1 if isinstance(step, int) else (found[-1][0] if found else 0)
        found = [(s, p) for s, p in found if s != step] + [(step, final)]
    return sorted(found)


class ImageSets:
    """The images of all checkpoints, read once for each way of resizing them."""

    def __init__(self, images="", most=60, source_images=60):
        """
        Args:
            images (str): a registered set or a folder; "" = the first of ``DATASETS.TARGET``, else of ``TEST``.
            most (int): target images, evenly spread; 0 = all.
            source_images (int): labelled images of ``DATASETS.TRAIN``; 0 = none.
        """
        self.images, self.most, self.source_images = images, most, source_images
        self._read = {}
        self.notes = []  # what is missing

    def target_name(self, cfg):
        """
        Raises:
            ConfigError: where there are no images to look at.
        """
        name = self.images or next(iter((*cfg.DATASETS.TARGET, *cfg.DATASETS.TEST)), "")
        if not name:
            raise ConfigError("the run has neither DATASETS.TARGET nor TEST: name target images with --images.")
        return name

    def of(self, cfg):
        """(target, source) :class:`Images`; the source is None where it is not wanted, or cannot be read."""
        key = str((cfg.INPUT, cfg.DATASETS.CUSTOM, cfg.DATASETS.TRAIN[:1], self.target_name(cfg)))
        if key not in self._read:
            self._read[key] = read_unlabelled(cfg, self.target_dicts(cfg)), self._source(cfg)
        return self._read[key]

    def target_dicts(self, cfg):
        name = self.target_name(cfg)
        if name in DatasetCatalog.list():
            return dicts_of(name, self.most)
        if not os.path.isdir(name):
            raise DataError(f"--images {name} is neither a set of the run's config nor a folder.")
        sources = evenly(find_images(name, "--images"), self.most)
        return [{"file_name": str(s.path), "image_id": s.name} for s in sources]

    def _source(self, cfg):
        try:
            return read_source(cfg, self.source_images)
        except (DataError, OSError, KeyError) as e:
            self.notes.append(f"The source images cannot be read, so criteria that need them are left out: {e}")
            return None


def average_precision(cfg, model, name):
    """AP50 and ``AP50-CLASS`` of a model on a labelled set, in per cent.

    Raises:
        DataError: where the set has no labels.
    """
    evaluator = DetectionEvaluator(name, tasks=("bbox",), distributed=False)
    # pycocotools prints its tables
    with open(os.devnull, "w", encoding="utf-8") as quiet, contextlib.redirect_stdout(quiet):
        found = inference_on_dataset(model, build_test_loader(cfg, name), evaluator).get("bbox", {})
    if "AP50" not in found:
        raise DataError(f"--judge {name}: the set has no labels to judge with.")
    return {k: v for k, v in found.items() if k.startswith("AP50")}


@dataclass
class Row:
    """What was measured of a checkpoint.

    ``truth`` is that of :func:`average_precision`, None without labels. ``lost`` names the classes of its start that
    it has lost, as far as somebody has looked.
    """

    checkpoint: Checkpoint
    measured: object
    truth: Optional[dict] = None
    lost: list = field(default_factory=list)


def measure_runs(runs, sets, criteria, judge="", trust=False, after_image=None, skip=None):
    """Measure all checkpoints of all runs, one after the other.

    Args:
        runs (list[RunConfig]), sets (ImageSets), criteria (sequence of str)
        judge (str): a labelled set; "" = no AP50.
        skip (callable): called with a checkpoint that is left out, and the reason.

    Yields:
        Row: one a checkpoint. A start that does not hold a whole detector (weights of a backbone) is left out.

    Raises:
        ConfigError: where a model without boxes is to be judged by AP50.
    """
    for run in runs if judge else ():
        if "boxes" not in label_kinds(run.cfg):
            raise ConfigError(f"{run.name}: the model predicts no boxes, so there is no AP50: leave out --judge.")
    for run in runs:
        cfg, model = run.cfg, build_checked_model(run.cfg).eval()
        register_declared_datasets(cfg)  # of several runs, the last one's sets are registered
        target, source = sets.of(cfg)
        if judge and judge not in DatasetCatalog.list():
            raise ConfigError(f"--judge {judge} is neither registered nor in DATASETS.CUSTOM of {run.name}.")
        checkpointer = MICCheckpointer.from_config(cfg, model, complete=True, trust=trust)
        for checkpoint in run.checkpoints:
            try:
                checkpointer.load(checkpoint.file)
            except CheckpointError as e:
                if not checkpoint.start:
                    raise
                if skip:
                    skip(checkpoint, str(e))
                continue
            model.eval()
            found = measure(model, target, num_classes(cfg, judged_kind(cfg)), source, criteria, after_image)
            yield Row(checkpoint, found, average_precision(cfg, model, judge) if judge else None)
