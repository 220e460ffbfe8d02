"""From command-line arguments to a checked config."""

import logging
import os
import re

import yaml
from detectron2.config import get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm

from ..config import ConfigError, add_mic_config
from ..config_checks import validate_mic_config
from ..data.catalog import register_declared_datasets
from ..data.run_sets import check_datasets
from .hardware import describe_hardware


def load_config(config_file="", opts=()):
    """Detectron2's defaults, mic_det's keys, a config file and ``KEY VALUE`` pairs, in this order.

    The device becomes "cpu" where the config says "cuda" and there is none. Declared data sets are
    registered.

    Raises:
        ConfigError: a missing file, an unknown key, or a value that cannot work; names the key.
    """
    import torch

    cfg = get_cfg()
    add_mic_config(cfg)
    try:
        if config_file:
            cfg.merge_from_file(config_file, allow_unsafe=False)  # YAML that builds objects is refused
        cfg.merge_from_list(list(opts))
    except FileNotFoundError as e:
        raise ConfigError(f"there is no config file {e.filename or config_file}") from e
    except (AttributeError, TypeError) as e:
        raise ConfigError(f"{config_file or 'command line'} is not a mapping of keys to values ({e})") from e
    except (KeyError, AssertionError, ValueError, OSError, yaml.YAMLError) as e:
        raise ConfigError(f"{config_file or 'command line'}: {_one_line(e)}") from e
    validate_mic_config(cfg)
    register_declared_datasets(cfg)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("MODEL.DEVICE is %s, but no GPU is usable: cpu.", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _one_line(error):
    """An error's text without line breaks and quotes, and without the middle where it shows a whole config."""
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    text = " ".join(text.split())
    return text if len(text) < 400 else f"{text[:200]} ... {text[-150:]}"


def split_opts(values, opts=()):
    """Part ``KEY VALUE`` pairs from the values of an option that takes several: argparse gives it all that follow.

    Returns:
        (list[str], list[str]): the option's own values, and the pairs, those in ``opts`` last.
    """
    key = re.compile(r"[A-Z][A-Z0-9_]*\.[A-Z][A-Z0-9_]*(\.\w+)*")
    keys = [i for i, x in enumerate(values) if key.fullmatch(x) and not os.path.exists(x)]
    end = keys[0] if keys else len(values)
    return list(values[:end]), [*values[end:], *opts]


def setup(args):
    """``load_config`` from Detectron2's arguments, then its logging, and a check of the data sets."""
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    lines = check_datasets(cfg, training=not args.eval_only)
    default_setup(cfg, args)
    if comm.is_main_process():
        logging.getLogger("detectron2").info("Hardware: " + describe_hardware())
        logging.getLogger("detectron2").info("Data sets:\n" + "\n".join(lines))
    return cfg
