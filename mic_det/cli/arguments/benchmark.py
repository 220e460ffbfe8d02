"""Measure what a step costs: MIC against Detectron2's plain step, its parts, memory, loader and evaluation.

Everything runs in one process, in alternation, so that ratios hold on a busy machine too; peak memory is measured in
a process for each variant. Weights are MODEL.WEIGHTS where that file is there, else random; images are those of the
config's data sets where they are there, else noise (always with --synthetic or --size).

Examples:
    {program} --config-file minicity/mic.yaml --output output/benchmark
    {program} --config-file cityscapes_to_foggy/mic.yaml --size 256 512 --repeats 5 --no-memory
    {program} --config-file minicity/mic.yaml --sweep --only mic
"""

from ...utils.arguments import add_config_argument, add_import_argument, add_opts_argument, add_overwrite_argument


def add(parser):
    add_config_argument(parser)
    parser.add_argument("--output", metavar="DIR", help="folder for benchmark.json and, with --sweep, benchmark.png")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="noise of this size in pixels")
    parser.add_argument("--synthetic", action="store_true", help="noise even where the data sets are there")
    parser.add_argument("--only", nargs="+", default=(), metavar="STEP", help="these steps and their floor alone")
    parser.add_argument("--no-memory", action="store_true", help="leave the measurement of memory out")
    parser.add_argument("--no-data", action="store_true", help="leave the loader and evaluation out")
    parser.add_argument("--eval-images", type=int, default=40, help="of the evaluation (default: %(default)s)")
    parser.add_argument("--sweep", action="store_true", help="also cost against batch size and image size")
    parser.add_argument(
        "--latency", metavar="FOLDER", help="prediction alone, PyTorch against ONNX Runtime on the CPU, on images"
    )
    add_overwrite_argument(parser)
    add_import_argument(parser)
    add_opts_argument(parser)
