"""From command-line arguments to a checked config."""

import contextlib
import difflib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoint.class_names import state_model_classes
from ..config import (
    add_mic_config,
    check_config_file,
    check_detectron2_keys,
    flat_keys,
    is_mic,
    validate_mic_config,
)
from ..config.bundled import find_config
from ..config.label_kinds import consistency_weights, label_kinds
from ..data.custom_sets import expanded, register_declared_datasets, resolve_path
from ..data.run_sets import check_datasets
from ..errors import ConfigError
from ..modeling.masking import PatchMask
from ..utils.arguments import add_model_arguments, split_opts  # noqa: F401  their earlier place
from ..utils.hardware import describe_hardware, slow_number_format
from ..utils.ordinary_files import absence
from ..utils.own_code import import_own_code
from ..utils.programs import keep_logs_printable
from ..utils.run_lock import run_lock
from .output_folder import check_output
from .run_folder import has_training, note_command, prepare_run_folder
from .scaling import scale_to_world_size


def get_mic_cfg(config_file: Union[str, os.PathLike] = "", opts: Sequence = ()) -> CfgNode:
    """Detectron2's defaults, mic_det's keys, a config file and ``KEY VALUE`` pairs, in this order.

    The device becomes "cpu" where the config says "cuda" and there is none. Declared data sets are
    registered.

    Args:
        config_file (str or path): a YAML file, or one that mic_det brings along (``find_config``); "" = none.
        opts (sequence): keys and values in turn, as on the command line: ``["SOLVER.MAX_ITER", 100]``.

    Returns:
        CfgNode: checked, not frozen.

    Raises:
        ConfigError: a missing file, an unknown key, or a value that cannot work; names the key.
    """
    import torch

    cfg = get_cfg()
    add_mic_config(cfg)
    defaults = cfg.clone()
    config_file = find_config(config_file)
    if config_file:
        places = check_config_file(config_file)
        with _merging(cfg, config_file, places):
            cfg.merge_from_file(str(config_file), allow_unsafe=False)  # YAML that builds objects is refused
    with _merging(cfg, "the command line", {}):
        cfg.merge_from_list(list(opts))
    check_detectron2_keys(cfg, defaults)
    validate_mic_config(cfg)
    cfg.OUTPUT_DIR = expanded(cfg.OUTPUT_DIR)
    register_declared_datasets(cfg)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        text = "MODEL.DEVICE is %s, but no GPU is usable: the CPU is used."
        logging.getLogger(__name__).warning(text, cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    return cfg


load_config = get_mic_cfg  # its earlier name


def config_of(args):
    """The config that a program's arguments ask for; modules of ``--import`` are imported first."""
    import_own_code(getattr(args, "modules", ()))
    args.config_file = find_config(args.config_file)
    return get_mic_cfg(args.config_file, args.opts)


@contextlib.contextmanager
def _merging(cfg, source, places):
    """Errors of yacs as one line that tells the place of the key and, of an unknown one, what it may be meant for."""
    try:
        yield
    except (KeyError, AssertionError, ValueError, AttributeError, TypeError, RecursionError, OSError) as e:
        text = _one_line(e)
        named = re.search(r"key: ([\w.]+)", text)
        key = named[1] if named else ""
        if "Non-existent" in text:
            similar = difflib.get_close_matches(key, flat_keys(cfg), 1)
            text = f"there is no key {key}" + (f". Is {similar[0]} meant?" if similar else ".")
        types = re.match(r"Type mismatch \(<class '([\w.]+)'> vs\. <class '([\w.]+)'>", text)
        if types:
            needed, given = (t.rpartition(".")[2].replace("CfgNode", "mapping") for t in types.groups())
            value = text.split(" vs. ")[-1].split(") for")[0]
            text = f"{key} is of type {given} ({value}): it must be of type {needed}."
        raise ConfigError(f"{places.get(key, source)}: {text}") from e


def _one_line(error):
    """An error's text without line breaks and quotes, and without the middle where it shows a whole config."""
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    text = " ".join(text.split())
    return text if len(text) < 400 else f"{text[:200]} ... {text[-150:]}"


def setup(args):
    """The config of Detectron2's arguments, then its logging, and a check of the data sets."""
    cfg = config_of(args)
    cfg.freeze()
    _check_output_dir(cfg)
    writable = check_output(cfg, training=not args.eval_only)
    if not args.eval_only:
        run_lock(cfg.OUTPUT_DIR)  # before anything in there is changed
        scale_to_world_size(cfg, comm.get_world_size())  # refuses batch sizes that cannot be divided
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_unexpected)
    if not args.eval_only:
        state_model_classes(cfg, args.trust_checkpoint)
    lines = check_datasets(cfg, training=not args.eval_only)
    moved = "" if args.eval_only else prepare_run_folder(cfg.OUTPUT_DIR, _what_is_read(cfg, args), args.resume)
    log_folder = _log_folder(cfg, args.eval_only) if writable else None
    default_setup(_with_output_dir(cfg, log_folder), args)
    setup_logger(log_folder, distributed_rank=comm.get_rank(), name="mic_det")  # as Detectron2's own messages
    keep_logs_printable()
    if moved:
        text = "%s had files of an earlier run: they were moved to %s."
        logging.getLogger(__name__).warning(text, cfg.OUTPUT_DIR, moved)
    if comm.is_main_process():
        if log_folder:
            note_command(log_folder)
        logging.getLogger("detectron2").info("Hardware: " + describe_hardware())
        slow = "" if args.eval_only else slow_number_format(cfg)
        if slow:
            logging.getLogger(__name__).warning(slow)
        logging.getLogger("detectron2").info("Data sets:\n" + "\n".join(lines))
        if is_mic(cfg) and cfg.DATASETS.TARGET and any(consistency_weights(cfg).values()) and not args.eval_only:
            squares = label_kinds(cfg) == ("image_class",)
            sides = [cfg.INPUT.IMAGE_CLASS.CROP] if squares else cfg.INPUT.MIN_SIZE_TRAIN
            logging.getLogger("detectron2").info(f"Patch mask: {PatchMask.from_config(cfg).describe(sides)}")
    return cfg


def _check_output_dir(cfg):
    """Nothing in OUTPUT_DIR may make a run wait for ever, and none of its pictures may become images of a set."""
    paths = []
    with contextlib.suppress(OSError):  # not there yet, or not to be listed, which the check of writing judges
        with os.scandir(cfg.OUTPUT_DIR) as entries:
            paths = [entry.path for entry in entries if not entry.is_dir()]
    for path in paths:
        if "not an ordinary file" in absence(path):
            raise ConfigError(f"OUTPUT_DIR: {path} {absence(path)}: remove it, or name another folder.")
    sets = cfg.DATASETS
    for name in (*sets.TRAIN, *sets.TARGET, *sets.TARGET_LABELLED, *sets.TEST) if cfg.VIS_PERIOD else ():
        entry = sets.CUSTOM.get(name, {})
        if entry and not entry.get("JSON"):
            images, output = (Path(os.path.realpath(x)) for x in (resolve_path(entry.IMAGES), cfg.OUTPUT_DIR))
            if images in (output, *output.parents):
                raise ConfigError(
                    f"OUTPUT_DIR {cfg.OUTPUT_DIR} is in the image folder of {name}, to which its pictures (VIS_PERIOD) "
                    "would be added: name a folder outside."
                )


def _what_is_read(cfg, args):
    """(key, path) of the files and folders that a run reads."""
    found = [("--config-file", args.config_file), ("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS)]
    labeller = cfg.MODEL.MIC.LABELLER.JSON
    found.append(("MODEL.MIC.LABELLER.JSON", labeller and resolve_path(labeller)))
    for name, entry in cfg.DATASETS.CUSTOM.items():
        keys = [k for k in ("JSON", "IMAGES", "SEM_SEG") if entry.get(k)]
        found += [(f"DATASETS.CUSTOM.{name}.{k}", resolve_path(entry[k])) for k in keys]
    return [(key, path) for key, path in found if path]


def _log_folder(cfg, eval_only):
    """Where log.txt and config.yaml go: those of a training stay its own where its folder is evaluated in."""
    return os.path.join(cfg.OUTPUT_DIR, "inference") if eval_only and has_training(cfg.OUTPUT_DIR) else cfg.OUTPUT_DIR


def _with_output_dir(cfg, folder):
    if folder == cfg.OUTPUT_DIR:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = folder
    return cfg


def _is_unexpected(record):
    """Errors of mic_det's own kinds are the tools' last line: the train loop need not log a traceback of them."""
    error = record.exc_info[1] if record.exc_info else None
    return not type(error).__module__.startswith("mic_det.")
