"""Choose the target images that are most worth a label, and write them with boxes to correct.

An image is worth a label where the detector's predictions in several views disagree, and where it differs from those
that were chosen before. The command writes pre_labels.json, a COCO file with the detector's boxes, which CVAT ("COCO
1.0") and Label Studio (label-studio-converter import coco) read; images.txt, the files in the order of their worth;
train.yaml, a config that also trains with these labels.

Example:
    {program} --config-file my.yaml --weights out/model_final.pth --count 20 --output to_label
    # correct the boxes, save them as to_label/labels.json, then
    mic-det train --config-file to_label/train.yaml
"""

from ...utils.arguments import add_config_argument, add_model_arguments, add_opts_argument, add_overwrite_argument


def add(parser):
    add_config_argument(parser)
    parser.add_argument("--weights", metavar="FILE", help="the checkpoint (default: MODEL.WEIGHTS)")
    parser.add_argument("--count", type=int, default=20, metavar="K", help="images to choose (%(default)s)")
    parser.add_argument(
        "--images", default="", metavar="NAME|DIR", help="target images (default: the first of DATASETS.TARGET)"
    )
    parser.add_argument(
        "--max-images", type=int, default=500, metavar="N",
        help="look at N of them at most, evenly spread; 0 = all (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.4,
        metavar="P",
        help="least score of a written box (%(default)s)",
    )
    parser.add_argument(
        "--share", type=float, default=0.25, metavar="S",
        help="share of labelled target images in the source batches of train.yaml (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the files")
    add_overwrite_argument(parser)
    add_model_arguments(parser)
    add_opts_argument(parser)


def check(parser, args):
    if args.count < 1 or args.max_images < 0:
        parser.error("--count must be at least 1, --max-images at least 0")
    if not 0 < args.share < 1 or not 0 <= args.confidence_threshold <= 1:
        parser.error("--share must be between 0 and 1, --confidence-threshold in [0, 1]")
