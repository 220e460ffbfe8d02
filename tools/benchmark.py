"""Measure what a step costs: MIC against Detectron2's plain step, its parts, memory, loader and evaluation.

Everything runs in one process, in alternation, so that ratios hold on a busy machine too; peak memory is measured in
a process for each variant. Weights are MODEL.WEIGHTS where that file is there, else random; images are those of the
config's data sets where they are there, else noise (always with --synthetic or --size).

Examples:
    python tools/benchmark.py --config-file configs/minicity/mic.yaml --output output/benchmark
    python tools/benchmark.py --config-file configs/cityscapes_to_foggy/mic.yaml --size 256 512 --repeats 5 --no-memory
    python tools/benchmark.py --config-file configs/minicity/mic.yaml --sweep --only mic
"""

import argparse
import json
import logging
import sys

from mic_det.benchmark.run import (
    as_text,
    benchmark_data,
    benchmark_memory,
    benchmark_steps,
    machine,
    plot_sweep,
    sweep,
)
from mic_det.benchmark.variants import TITLES, variant_names
from mic_det.engine.setup import config_of
from mic_det.errors import ConfigError, MICError
from mic_det.utils.outputs import Outputs, add_overwrite_argument
from mic_det.utils.own_code import add_import_argument
from mic_det.utils.printable import printable
from mic_det.utils.programs import start_program


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", metavar="DIR", help="folder for benchmark.json and, with --sweep, benchmark.png")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="noise of this size in pixels")
    parser.add_argument("--synthetic", action="store_true", help="noise even where the data sets are there")
    parser.add_argument("--only", nargs="+", default=(), choices=list(TITLES), help="these steps and their floor alone")
    parser.add_argument("--no-memory", action="store_true", help="leave the measurement of memory out")
    parser.add_argument("--no-data", action="store_true", help="leave the loader and evaluation out")
    parser.add_argument("--eval-images", type=int, default=40, help="of the evaluation (default: %(default)s)")
    parser.add_argument("--sweep", action="store_true", help="also cost against batch size and image size")
    add_overwrite_argument(parser)
    add_import_argument(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, as in train_net.py")
    return parser.parse_args()


def main(args):
    if args.repeats < 1:
        raise ConfigError(f"--repeats is {args.repeats}: use at least 1.")
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    cfg = config_of(args)
    outputs = None
    if args.output:
        outputs = Outputs(args.output, "benchmark", [args.config_file, cfg.MODEL.WEIGHTS], args.overwrite)
        outputs.check(["benchmark.json"] + ["benchmark.png"] * args.sweep)
    names = variant_names(cfg, args.only)
    result = {"config": args.config_file, "opts": args.opts, "machine": machine()}
    result["steps"] = benchmark_steps(cfg, args.repeats, names, args.size and tuple(args.size), args.synthetic)
    size = tuple(result["steps"]["image_size"])
    if not args.no_memory:
        result["memory"] = benchmark_memory(cfg, names, size, args.modules)
    if not args.no_data:
        result["data"] = benchmark_data(cfg, args.eval_images)
    if args.sweep:
        sizes = [(size[0] // k // 32 * 32, size[1] // k // 32 * 32) for k in (1, 2) if size[0] // k >= 64]
        result["sweep"] = sweep(cfg, sizes, (1, 2, 4), max(2, args.repeats // 2))
    print(as_text(result))
    if outputs:
        outputs.write_text("benchmark.json", json.dumps(result, indent=1))
        if args.sweep:
            with outputs.writing("benchmark.png") as file:
                plot_sweep(result["sweep"], file)


if __name__ == "__main__":
    start_program()
    try:
        main(parse_args())
    except (MICError, OSError, RuntimeError) as e:
        sys.exit(f"error: {printable(e)}")
