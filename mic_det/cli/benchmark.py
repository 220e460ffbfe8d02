"""Measure the cost of a step: MIC against Detectron2's plain step, its parts, memory, loader and evaluation."""

import json
import logging
from argparse import Namespace

from ..benchmark.compare import compare_configs, compared_as_text
from ..benchmark.latency import as_table, measure_latency
from ..benchmark.run import (
    as_text,
    benchmark_data,
    benchmark_memory,
    benchmark_steps,
    machine,
    plot_sweep,
    sweep,
)
from ..benchmark.synthetic import image_size
from ..benchmark.variants import TITLES, variant_names
from ..config.label_kinds import refuse_image_classes
from ..engine.setup import config_of
from ..errors import ConfigError, MICError
from ..utils.outputs import Outputs


def main(args):
    """
    Raises:
        ConfigError: also where memory or an operator fails, with the library's message.
    """
    try:
        measure(args)
    except (OSError, RuntimeError) as e:
        if isinstance(e, MICError):
            raise
        raise ConfigError(str(e)) from e


def measure(args):
    unknown = [x for x in args.only if x not in TITLES]
    if unknown:
        raise ConfigError(f"--only names {unknown[0]!r}: use one or more of {', '.join(TITLES)}.")
    if args.repeats < 1:
        raise ConfigError(f"--repeats is {args.repeats}: use at least 1.")
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    cfg = config_of(args)
    refuse_image_classes(cfg, "The benchmark")
    outputs = None
    if args.output:
        outputs = Outputs(args.output, "benchmark", [args.config_file, cfg.MODEL.WEIGHTS], args.overwrite)
        outputs.check(["benchmark.json"] + ["benchmark.png"] * args.sweep)
    if args.latency:
        cfg.merge_from_list(["MODEL.DEVICE", "cpu"])
        result = {"config": args.config_file, "opts": args.opts, "machine": machine()}
        result["latency"] = measure_latency(cfg, args.latency, args.repeats)
        print(as_table(result["latency"]))
        if outputs:
            outputs.write_text("benchmark.json", json.dumps(result, indent=1))
        return
    if args.compare:
        cfgs = {
            args.config_file: cfg,
            **{x: config_of(Namespace(**{**vars(args), "config_file": x})) for x in args.compare},
        }
        size = tuple(args.size or image_size(cfg))
        found = compare_configs(cfgs, size, args.repeats, not args.no_memory, args.modules)
        print(compared_as_text(found))
        if outputs:
            content = {"opts": args.opts, "machine": machine(), "image_size": size, "compare": found}
            outputs.write_text("benchmark.json", json.dumps(content, indent=1))
        return
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
