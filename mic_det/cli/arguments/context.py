"""Hide more and more of each image and measure what models still find: curves, their numbers, and pictures.

The same patches are hidden for every checkpoint. Checkpoints may be those of plain models or of MIC. --objects shows
what the context is worth to a model. It evaluates each checkpoint also on the objects alone (everything outside the
true boxes has the mean colour) and on the context alone (the true boxes have the mean colour). Example:
    {program} --config-file minicity/mic.yaml --output context --objects \\
        --weights source-only=output/minicity/source_only/model_final.pth MIC=output/minicity/mic/model_final.pth
"""

from ...utils.arguments import (
    add_config_argument,
    add_model_arguments,
    add_opts_argument,
    add_overwrite_argument,
    split_opts,
)


def add(parser):
    add_config_argument(parser)
    parser.add_argument("--weights", required=True, nargs="+", metavar="NAME=FILE", help="checkpoints to compare")
    parser.add_argument("--output", required=True, help="folder for curves, curve.json and contact_sheet.png")
    parser.add_argument(
        "--ratios", nargs="+", default=["0", "0.3", "0.5", "0.7", "0.9"], help="hidden shares of the patches, in [0, 1)"
    )
    parser.add_argument(
        "--objects", action="store_true",
        help="also measure AP on the objects alone and on the context alone; write objects_AP50.png, and add both to "
        "curve.json and the contact sheet",
    )  # fmt: skip
    parser.add_argument("--dataset", help="a labelled set (default: the first of DATASETS.TEST)")
    parser.add_argument(
        "--images", type=int, default=3, help="images of the contact sheet, evenly spread (%(default)s)"
    )
    add_overwrite_argument(parser)
    add_model_arguments(parser)
    add_opts_argument(parser)


def check(parser, args):
    for option in ("weights", "ratios"):
        values, args.opts = split_opts(getattr(args, option), args.opts)
        setattr(args, option, values)
    try:
        args.ratios = [float(x) for x in args.ratios]
    except ValueError as e:
        parser.error(f"--ratios: {e}")
    if not args.ratios or not all(0 <= r < 1 for r in args.ratios):
        parser.error("--ratios: use numbers in [0, 1)")
    pairs = [x.partition("=") for x in args.weights]
    if not all(name and file for name, _, file in pairs) or len({p[0] for p in pairs}) < len(pairs):
        parser.error(f"--weights {' '.join(args.weights)}: use NAME=FILE with a different name each")
    args.weights = {name: file for name, _, file in pairs}
