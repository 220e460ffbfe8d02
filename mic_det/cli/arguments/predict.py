"""Find objects in images, folders of images and videos. Models with a segmentation head also label the pixels.

The command writes pictures, the boxes as COCO JSON or CSV, and label maps. A label map is an 8-bit PNG file.
label_maps/classes.txt names the classes of its values.

Examples:
    {program} --config-file minicity/mic.yaml --input photo.jpg drive.mp4 --output found \\
        MODEL.WEIGHTS output/minicity/mic/model_final.pth
    {program} --config-file minicity/mic.yaml --input folder --output found \\
        --format coco,csv --confidence-threshold 0.3 MODEL.WEIGHTS FILE MODEL.DEVICE cpu
    {program} --weights model.onnx --input folder --output found     # onnxruntime, without PyTorch
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
    add_config_argument(parser, required=False)
    parser.add_argument(
        "--weights", metavar="FILE",
        help="MODEL.WEIGHTS, or a .onnx file of `mic-det export`: it needs no config, PyTorch or Detectron2",
    )  # fmt: skip
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
    if not needs_detectron2(args):
        if args.config_file or args.opts or args.modules or args.trust_checkpoint:
            parser.error(f"--weights {args.weights}: the file holds its config: leave --config-file and keys out")
    elif not args.config_file:
        parser.error("the following arguments are required: --config-file (or --weights FILE.onnx)")
    args.format = args.format.split(",")
    unknown = [f for f in args.format if f not in FORMATS]
    if unknown:
        parser.error(f"--format {unknown[0]!r}: use one or more of {', '.join(FORMATS)}, joined by commas")
    if not 0 <= args.confidence_threshold <= 1:
        parser.error(f"--confidence-threshold is {args.confidence_threshold}: use a number in [0, 1]")


def needs_detectron2(args):
    """False for a .onnx file."""
    return not (args.weights or "").endswith(".onnx")
