"""Write the teacher (or student) alone, for plain Detectron2: a checkpoint, and a config without mic_det's keys.

Detectron2 loads both without mic_det.

Example:
    {program} --config-file minicity/mic.yaml --output exported/mic.pth \\
        MODEL.WEIGHTS output/minicity/mic/model_final.pth
"""

from ...utils.arguments import add_config_argument, add_model_arguments, add_opts_argument, add_overwrite_argument


def add(parser):
    add_config_argument(parser)
    parser.add_argument(
        "--output", required=True, metavar="FILE",
        help="FILE.pth or FILE.safetensors; FILE.yaml is written beside it",
    )  # fmt: skip
    parser.add_argument(
        "--model", choices=("teacher", "student"), default="teacher", help="which of the two models (%(default)s)"
    )
    add_overwrite_argument(parser)
    add_model_arguments(parser)
    add_opts_argument(parser)


def check(parser, args):
    if not args.output.endswith((".pth", ".safetensors")):
        parser.error(f"--output {args.output}: use a name that ends with .pth or .safetensors")
