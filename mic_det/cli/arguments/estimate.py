"""Estimate AP50 on target images without labels: overall and for each class, with a 90 % interval.

The command makes copies of labelled source images with fog, darkness, noise, blur and less contrast. AP50 is known
there. It fits a regression from the consistency of the predictions to AP50, and applies it to the target images. It
says where the target images are unlike all copies: the estimate is then a guess. A few labelled target images make
the estimate better (--labels).

Examples:
    {program} --config-file minicity/mic.yaml --weights model_final.pth --source minicity_clear_val
    {program} --config-file my.yaml --weights model_final.pth --source my_val --images folder_of_fog_images
    {program} --config-file my.yaml --weights model_final.pth --source my_val --labels 20 --labelled my_fog_val
"""

from ...utils.arguments import add_config_argument, add_model_arguments, add_opts_argument, add_overwrite_argument


def add(parser):
    add_config_argument(parser)
    parser.add_argument("--weights", metavar="FILE", help="the checkpoint (default: MODEL.WEIGHTS)")
    parser.add_argument(
        "--source", required=True, metavar="NAME", help="labelled source images that the model was not trained on"
    )
    parser.add_argument(
        "--images", default="", metavar="NAME|DIR", help="target images (default: the first of DATASETS.TARGET)"
    )
    parser.add_argument("--max-images", type=int, default=100, metavar="N", help="at most N of them (%(default)s)")
    parser.add_argument(
        "--source-images", type=int, default=60, metavar="N", help="source images in each copy (%(default)s)"
    )
    parser.add_argument("--labels", type=int, default=0, metavar="K", help="use the labels of K target images")
    parser.add_argument("--labelled", default="", metavar="NAME", help="the set that has them (default: DATASETS.TEST)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the K images (%(default)s)")
    parser.add_argument("--output", default="estimate.json", metavar="FILE", help="the file to write (%(default)s)")
    add_overwrite_argument(parser)
    add_model_arguments(parser)
    add_opts_argument(parser)


def check(parser, args):
    if args.labels < 0 or 0 < args.labels < 5:
        parser.error(f"--labels is {args.labels}: use 0, or at least 5 images, or their AP50 says nothing")
    if args.source_images < 10 or args.max_images < 5:
        parser.error("--source-images must be at least 10, --max-images at least 5")
