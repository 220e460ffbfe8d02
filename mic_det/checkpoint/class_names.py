"""Names of the classes of a model that is trained without a source set: its checkpoint tells them."""

import os

from ..config.label_kinds import classes_key, named_kind, num_classes
from ..config.models import is_mic
from ..data.classes import expect_classes, stated_classes
from ..data.custom_sets import targets_alone
from ..errors import CheckpointError, ConfigError
from .formats import read_torch
from .storage import tagged_checkpoint


def state_model_classes(cfg, trust=False):
    """Without ``DATASETS.TRAIN``, bring all labelled sets into the order of the classes of the checkpoint.

    Call it before sets are loaded. ``DATASETS.CLASS_NAMES`` comes first. A checkpoint without names changes nothing:
    then the sets' own order is taken to be that of the model.

    Args:
        cfg (CfgNode): a config with mic_det's keys.
        trust (bool): ``--trust-checkpoint``.

    Raises:
        ConfigError: where the number of names is not that of the model's classes.
    """
    kind = named_kind(cfg)
    if cfg.DATASETS.TRAIN or not is_mic(cfg) or not kind:
        return
    names, whose = list(cfg.DATASETS.CLASS_NAMES), "DATASETS.CLASS_NAMES"
    if not names:
        names, whose = (
            stated_classes() or checkpoint_class_names(cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, trust),
            "the checkpoint",
        )
    if names and len(names) != num_classes(cfg, kind):
        if cfg.DATASETS.TARGET_LABELLED and whose == "the checkpoint":
            return  # a model of other classes, such as COCO's: the labelled images tell those of this one
        raise ConfigError(
            f"{whose} names {len(names)} classes ({', '.join(names)}), but {classes_key(cfg, kind)} is "
            f"{num_classes(cfg, kind)}: set it to their number."
        )
    if names:
        expect_classes(classes=names, except_for=targets_alone(cfg))


def checkpoint_class_names(weights, output_dir="", trust=False):
    """Names of the classes in a checkpoint of our trainer; None where it has none, or is of another kind.

    Args:
        weights (str): ``MODEL.WEIGHTS``.
        output_dir (str): folder of the run, whose last checkpoint is asked where ``weights`` is no file any more.
        trust (bool): run code in the file.
    """
    last = tagged_checkpoint(output_dir)
    for path in (weights, os.path.join(output_dir, last) if last else ""):
        if path.endswith((".pth", ".pt")) and os.path.isfile(path):
            try:
                named = read_torch(path, trust, mmap=not trust).get("class_names")
            except CheckpointError:
                continue  # whoever loads it says what is wrong with it
            if isinstance(named, list) and named and all(isinstance(n, str) for n in named):
                return named
    return None
