"""Train methods side by side over several seeds, and write one table, curves and a report of all runs."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..config.bundled import find_config
from ..engine.setup import get_mic_cfg
from ..errors import ConfigError, DataError
from ..experiments.ablation import (
    collect,
    mean_curves,
    read_plan,
    run_folder,
    sweep_points,
    table,
)
from ..experiments.report import build_report
from ..experiments.run_files import distinct_names, read_run
from ..experiments.runs import train
from ..utils.hardware import slow_number_format
from ..utils.outputs import Outputs
from ..utils.printable import printable
from ..visualization.curves import line_chart, sweep_chart

RESULTS = ("table.md", "results.json", "curves.png", "sweep.png", "report.html")


def main(args):
    args.plan = find_config(args.plan)
    plan = read_plan(args.plan)
    plan.opts += args.opts
    unknown = [c for c in args.cells or () if c not in plan.cells]
    if unknown:
        raise ConfigError(f"--cells names {unknown[0]!r}, but the plan's cells are {', '.join(plan.cells)}.")
    seeds = args.seeds or plan.seeds
    outputs = Outputs(args.output, "ablation", [args.plan], args.overwrite)
    outputs.check(RESULTS)
    if not args.table:
        run_all(plan, Path(args.output), seeds, args.cells or list(plan.cells), args.jobs, args.threads)
    results = collect(plan, args.output, seeds)
    if not results:
        raise DataError(f"no run below {args.output} has finished yet: call the command without --table to train.")
    write_results(plan, results, outputs, seeds)


def run_all(plan, output, seeds, cells, jobs, threads):
    """Run the burn-ins first, then method by method, so that the runs of a stopped call can be compared over seeds."""
    config, opts = plan.burn_in
    slow = slow_number_format(get_mic_cfg(config, [*plan.opts, *opts]))  # of all runs, whose own output is in files
    if slow:
        print(f"warning: {slow}", file=sys.stderr)
    with ThreadPoolExecutor(jobs) as pool:
        burn_ins = {s: pool.submit(run_one, plan, output, s, None, threads) for s in seeds}
        others = [pool.submit(run_after, burn_ins[s], plan, output, s, c, threads) for c in cells for s in seeds]
        try:
            for run in (*burn_ins.values(), *others):
                run.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def run_after(burn_in, *run):
    burn_in.result()
    run_one(*run)


def run_one(plan, output, seed, cell, threads):
    folder = run_folder(output, seed, cell)
    if (folder / "model_final.pth").is_file():
        return
    config, opts = plan.cells[cell] if cell else plan.burn_in
    if cell:
        opts = ["MODEL.WEIGHTS", run_folder(output, seed) / "model_final.pth", *opts]
    line = printable(f"seed {seed}: {cell or 'burn-in'} -> {folder}")
    print(f"{line}\n", end="", flush=True)  # one write, so that threads do not mix their lines
    train(config, folder, [*plan.opts, *opts, "SEED", seed], log=folder / "console.txt", threads=threads)


def write_results(plan, results, outputs, seeds):
    text = table(plan, results)
    print("\n".join(map(printable, text.splitlines())))
    outputs.write_text("table.md", text + "\n")
    values = {name: {"seeds": r.seeds, "hours": r.hours, **r.values} for name, r in results.items()}
    outputs.write_text("results.json", json.dumps(values, indent=1))
    curves = mean_curves(plan, results)
    title = f"{plan.metric} on {plan.test}, mean of the seeds"
    figures = {"curves.png": line_chart(title, curves, ylabel=plan.metric)} if curves else {}
    points, levels = sweep_points(plan, results)
    if points:
        figures["sweep.png"] = sweep_chart(title, points, levels, xlabel=plan.sweep.x, ylabel=plan.metric)
    for name, figure in figures.items():
        with outputs.writing(name) as file:
            figure.savefig(file, dpi=150)
    folders = [run_folder(outputs.folder, s, c) for c in (None, *plan.cells) for s in seeds]
    runs = distinct_names([read_run(f) for f in folders if (f / "metrics.json").is_file()])
    outputs.write_text("report.html", build_report(runs))
    written = [name for name in RESULTS if name in figures or not name.endswith(".png")]
    print(f"\nin {printable(outputs.folder)}: {', '.join(written)}")
