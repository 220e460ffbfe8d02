"""Check the data sets of a config before training: every image is opened, every box looked at, sets compared.

Exits with 1 where something would stop a training or spoil its numbers; training itself checks only what is cheap.

Example:
    {program} --config-file minicity/mic.yaml
"""

from ...utils.arguments import add_config_argument, add_import_argument, add_opts_argument


def add(parser):
    add_config_argument(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    add_opts_argument(add_import_argument(parser))


def check(parser, args):
    if args.workers is not None and args.workers < 1:
        parser.error("--workers: at least 1")
