"""Choose a checkpoint without target labels: rank those of one or several runs on unlabelled target images.

The command looks at each checkpoint's predictions in several views of the target images, and combines criteria that
need no labels. It says which checkpoint to ship and how sure that is. It warns where the start of an adaptation looks
better than everything that was adapted. All criteria of all checkpoints are written as JSON.

Examples:
    {program} output/mic output/mic_slow --output select.json
    {program} output/mic --images folder_of_fog_images --max-images 100
    {program} output/* --judge minicity_foggy_val MODEL.DEVICE cuda    # with AP50, to judge the criteria
"""

from ...utils.arguments import add_model_arguments, add_overwrite_argument, split_opts

INTERMIXED = True


def add(parser):
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="OUTPUT_DIR of a training; then KEY VALUE pairs")
    parser.add_argument(
        "--images", default="", metavar="NAME|DIR",
        help="target images: a set of the run's config, or a folder (default: the first of DATASETS.TARGET)",
    )  # fmt: skip
    parser.add_argument(
        "--max-images", type=int, default=60, metavar="N", help="at most N of them, evenly spread (%(default)s)"
    )
    parser.add_argument(
        "--source-images", type=int, default=60, metavar="N",
        help="labelled images of DATASETS.TRAIN to compare with; 0 = none (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--criteria", choices=("used", "all"), default="used", metavar="used|all",
        help="used: those of the combination. all: all, at three times the cost (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--start", default="", metavar="FILE", help="the start (default: MODEL.WEIGHTS of each run)")
    parser.add_argument(
        "--judge", default="", metavar="NAME",
        help="a labelled set: also measure AP50, to see how well the criteria choose; it takes no part in the choice",
    )  # fmt: skip
    parser.add_argument("--output", default="select.json", metavar="FILE", help="the file to write (%(default)s)")
    add_overwrite_argument(parser)
    add_model_arguments(parser)


def check(parser, args):
    args.runs, args.opts = split_opts(args.runs)
    if not args.runs:
        parser.error("the following arguments are required: RUN_DIR")
    if args.max_images < 0 or args.source_images < 0:
        parser.error("--max-images and --source-images: use a number of at least 0")
