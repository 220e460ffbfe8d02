"""Find objects in images, folders of images and videos. Models with a segmentation head also label the pixels.

The command writes pictures, the boxes as COCO JSON or CSV, and label maps. A label map is an 8-bit PNG file.
label_maps/classes.txt names the classes of its values.

Examples:
    {program} --config-file minicity/mic.yaml --input photo.jpg drive.mp4 --output found \\
        MODEL.WEIGHTS output/minicity/mic/model_final.pth
    {program} --config-file minicity/mic.yaml --input folder --output found \\
        --format coco,csv --confidence-threshold 0.3 MODEL.WEIGHTS FILE MODEL.DEVICE cpu
"""

from ...utils.arguments import (
    add_config_argument,
    add_model_arguments,
    add_opts_argument,
    add_overwrite_argument,
    split_opts,
)

FORMATS = ("pictures", "label_maps", "coco", "csv")


def add(parser):
    add_config_argument(parser)
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PATH", help="images, folders (searched recursively), videos"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, metavar="P", help="least score of a box (%(default)s)"
    )
    parser.add_argument(
        "--format", default="pictures", metavar="LIST",
        help=f"one or more of {', '.join(FORMATS)}, joined by commas (%(default)s)",
    )  # fmt: skip
    add_overwrite_argument(parser)
    add_model_arguments(parser)
    add_opts_argument(parser)


def check(parser, args):
    args.input, args.opts = split_opts(args.input, args.opts)
    args.format = args.format.split(",")
    unknown = [f for f in args.format if f not in FORMATS]
    if unknown:
        parser.error(f"--format {unknown[0]!r}: use one or more of {', '.join(FORMATS)}, joined by commas")
    if not 0 <= args.confidence_threshold <= 1:
        parser.error(f"--confidence-threshold is {args.confidence_threshold}: use a number in [0, 1]")
