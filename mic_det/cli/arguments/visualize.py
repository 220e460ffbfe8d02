"""Draw target images with their masked view, the teacher's pseudo-boxes, the predictions and the truth.

Example:
    {program} --config-file minicity/mic.yaml --weights output/minicity/mic/model_final.pth \\
        --output pictures
"""

from ...utils.arguments import add_config_argument, add_model_arguments, add_opts_argument, add_overwrite_argument


def add(parser):
    add_config_argument(parser)
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of MIC (default: MODEL.WEIGHTS)")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for one picture per image and contact_sheet.png"
    )
    parser.add_argument(
        "--window", action="store_true", help="also show each picture in a window; close it to continue"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="a registered or declared set (default: the first of DATASETS.TEST)"
    )
    parser.add_argument(
        "--num-images", type=int, default=6, metavar="N", help="images, evenly spread over the set (%(default)s)"
    )
    add_overwrite_argument(parser)
    add_model_arguments(parser)
    add_opts_argument(parser)
