"""Check the data sets of a config before training: open every image, look at every box, and compare the sets.

The exit code is 1 where a problem would stop a training or spoil its numbers. Training itself makes only quick checks.

Example:
    {program} --config-file minicity/mic.yaml
"""

from ...utils.arguments import add_config_argument, add_import_argument, add_opts_argument


def add(parser):
    add_config_argument(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; few images: 1)")
    add_opts_argument(add_import_argument(parser))


def check(parser, args):
    if args.workers is not None and args.workers < 1:
        parser.error("--workers: use at least 1")
