"""Write the teacher (or student) alone: as ONNX, TorchScript or a web page, or for plain Detectron2.

`mic-det predict --weights FILE.onnx` needs only onnxruntime, numpy and OpenCV. Detectron2 loads a checkpoint and its
config without mic_det.

Examples:
    {program} --config-file minicity/mic.yaml --output mic.onnx --verify photos MODEL.WEIGHTS FILE
    {program} --config-file minicity/mic.yaml --output mic.pth MODEL.WEIGHTS FILE
    {program} --config-file minicity/mic.yaml --web page --source-only FILE MODEL.WEIGHTS FILE
"""

from ...utils.arguments import add_config_argument, add_model_arguments, add_opts_argument, add_overwrite_argument

SUFFIXES = {
    "onnx": (".onnx",), "torchscript": (".ts", ".torchscript", ".pt"), "detectron2": (".pth", ".safetensors"),
}  # fmt: skip
OPSETS = range(16, 21)  # 16 is the first whose RoiAlign has Detectron2's half pixels; PyTorch's exporter ends at 20


def add(parser):
    add_config_argument(parser)
    parser.add_argument(
        "--output", metavar="FILE",
        help="file to write: .onnx, .ts, or for Detectron2 .pth or .safetensors (FILE.yaml is written beside it)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=SUFFIXES, metavar="F", help=f"{', '.join(SUFFIXES)} (default: as FILE ends)"
    )
    parser.add_argument(
        "--model", choices=("teacher", "student"), default="teacher", help="which of the two models (%(default)s)"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"),
        help="take only images that are resized to H x W pixels (default: any size)",
    )  # fmt: skip
    parser.add_argument(
        "--opset", type=int, default=17, choices=OPSETS, metavar="N", help="opset of ONNX (%(default)s)"
    )
    parser.add_argument("--verify", metavar="FOLDER", help="compare with PyTorch on the images of a folder")
    parser.add_argument("--web", metavar="DIR", help="write a static page that runs the model in a browser")
    parser.add_argument("--source-only", metavar="FILE", help="weights that the page shows beside the adapted ones")
    add_overwrite_argument(parser)
    add_model_arguments(parser)
    add_opts_argument(parser)


def check(parser, args):
    if bool(args.output) == bool(args.web):
        parser.error("name one of --output FILE and --web DIR")
    if args.source_only and not args.web:
        parser.error("--source-only belongs to --web")
    if args.size and min(args.size) < 32:
        parser.error(f"--size {args.size[0]} {args.size[1]}: use at least 32 pixels")
    if args.web:
        args.format = "onnx"
    ending = next((f for f, ends in SUFFIXES.items() if args.output and args.output.endswith(ends)), None)
    known = ", ".join(x for ends in SUFFIXES.values() for x in ends)
    if args.output and ending is None:
        parser.error(f"--output {args.output}: use a name that ends with one of {known}")
    args.format = args.format or ending
    if args.output and ending != args.format:
        parser.error(f"--output {args.output}: --format {args.format} is for {' or '.join(SUFFIXES[args.format])}")
    if args.format == "detectron2" and (args.size or args.verify):
        parser.error("--size and --verify belong to ONNX and TorchScript")
