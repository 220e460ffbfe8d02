"""Measure the cost of a step: MIC against Detectron2's plain step, its parts, memory, loader and evaluation.

All variants run in one process, in alternation, so that ratios hold on a busy machine too. Peak memory is measured in
one process for each variant. The weights are those of MODEL.WEIGHTS, or random where the file is missing. The images
are those of the config's data sets. They are noise where the data sets are missing, and with --synthetic or --size.

Examples:
    {program} --config-file minicity/mic.yaml --output output/benchmark
    {program} --config-file cityscapes_to_foggy/mic.yaml --size 256 512 --repeats 5 --no-memory
    {program} --config-file minicity/mic.yaml --sweep --only mic
    {program} --config-file cityscapes_to_foggy/mic.yaml --size 128 256 --compare cityscapes_to_foggy/swin_mic.yaml
"""

from ...utils.arguments import add_config_argument, add_import_argument, add_opts_argument, add_overwrite_argument


def add(parser):
    add_config_argument(parser)
    parser.add_argument("--output", metavar="DIR", help="folder for benchmark.json and, with --sweep, benchmark.png")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="use noise of this size in pixels")
    parser.add_argument("--synthetic", action="store_true", help="use noise even where the data sets exist")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="STEP", help="measure only these steps and their floor"
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--no-data", action="store_true", help="do not measure the loader and the evaluation")
    parser.add_argument("--eval-images", type=int, default=40, help="images of the evaluation (default: %(default)s)")
    parser.add_argument("--sweep", action="store_true", help="also measure several batch and image sizes")
    parser.add_argument(
        "--latency", metavar="FOLDER", help="measure only predictions on a folder's images: PyTorch, ONNX Runtime (CPU)"
    )
    parser.add_argument(
        "--compare", nargs="+", metavar="FILE", help="measure only the MIC step of the config and of these configs"
    )
    add_overwrite_argument(parser)
    add_import_argument(parser)
    add_opts_argument(parser)
