"""Arguments that several programs take. Nothing here imports PyTorch: help is shown at once."""

import argparse
import os
import re

from .outputs import add_overwrite_argument
from .own_code import add_import_argument

TRUST = "--trust-checkpoint"

__all__ = [
    "TRUST", "add_config_argument", "add_import_argument", "add_launch_arguments", "add_model_arguments",
    "add_opts_argument", "add_overwrite_argument", "split_opts",
]  # fmt: skip


def add_config_argument(parser, required=True, default=None):
    """``--config-file``: a file, or the name of a config that mic_det brings along."""
    parser.add_argument(
        "--config-file",
        required=required,
        default=default,
        metavar="FILE",
        help="a YAML file, or one that mic_det has, such as minicity/mic.yaml",
    )
    return parser


def add_opts_argument(parser):
    """``KEY VALUE`` pairs, which stand last."""
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, set to other values")
    return parser


def add_model_arguments(parser):
    """The options of every program that loads weights: ``--import`` and ``--trust-checkpoint``.

    No config may set them, as both run code, and a config is downloaded too.
    """
    add_import_argument(parser)
    parser.add_argument(
        TRUST,
        action="store_true",
        help="load files of weights that hold other objects than tensors; this runs any code that is in them",
    )
    return parser


def add_launch_arguments(parser):
    """The options of Detectron2's ``default_argument_parser``; only several machines need ``--dist-url``."""
    add_config_argument(parser, required=False, default="")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint of OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, train nothing")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (%(default)s)")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines (%(default)s)")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="I", help="number of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of the first machine")
    return parser


def split_opts(values, opts=()):
    """Part ``KEY VALUE`` pairs from the values of an option that takes several: argparse gives it all that follow.

    Returns:
        (list[str], list[str]): the option's own values, and the pairs, those in ``opts`` last.
    """
    key = re.compile(r"[A-Z][A-Z0-9_]*\.[A-Z][A-Z0-9_]*(\.\w+)*")
    keys = [i for i, x in enumerate(values) if key.fullmatch(x) and not os.path.exists(x)]
    end = keys[0] if keys else len(values)
    return list(values[:end]), [*values[end:], *opts]
