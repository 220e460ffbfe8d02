"""Make labeller files from true boxes with controlled errors: misses, false boxes and jitter.

This is a program for experiments: it measures how good a labeller (MODEL.MIC.LABELLER) must be. It reads a COCO
annotation file, and writes results files for the same image ids: level_1.json, level_2.json and level_3.json, from few
errors to many. With --misses, --false-boxes or --jitter it writes one file, custom.json. The table that it prints has
the AP50 of each file. Example:
    {program} --output datasets/minicity/noisy \\
        --annotations datasets/minicity/annotations/instances_foggy_0.02_train.json
"""

from ...utils.outputs import add_overwrite_argument


def add(parser):
    parser.add_argument("--annotations", required=True, metavar="FILE", help="a COCO annotation file with true boxes")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the files")
    parser.add_argument("--seed", type=int, default=1, help="of the random errors (%(default)s)")
    parser.add_argument("--misses", type=float, metavar="P", help="probability that a box is missing")
    parser.add_argument("--false-boxes", type=float, metavar="N", help="false boxes for each true box, as a mean")
    parser.add_argument("--jitter", type=float, metavar="S", help="s.d. of a box's position and size, as a share of it")
    add_overwrite_argument(parser)


def check(parser, args):
    for option, most in (("misses", 1.0), ("false_boxes", 100.0), ("jitter", 1.0)):
        value = getattr(args, option)
        if value is not None and not 0 <= value <= most:
            parser.error(f"--{option.replace('_', '-')} {value}: use a number in [0, {most:g}]")
