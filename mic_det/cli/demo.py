"""Show MIC at work on the miniature city: make it, train, adapt to fog without labels, draw before and after."""

import os
import sys
import time
from pathlib import Path

from ..experiments.run_files import read_run
from ..experiments.runs import run_program, train
from ..inference.media import write_picture
from ..utils.outputs import Outputs
from ..utils.printable import printable
from .adapt.plan import Machine
from .adapt.results import before_after, config, load_truth

CONFIGS = "minicity"
START, MIC, CONTROL, ORACLE = "source_strong_start", "mic_strong", "source_fair", "oracle_fair"  # configs and folders
# Fewer steps than the configs have, 900 and then 450; the learning rate rises and falls at the same shares of them.
SHORT_START = ("SOLVER.MAX_ITER", 450, "SOLVER.STEPS", "(375,)", "SOLVER.WARMUP_ITERS", 50)
SHORT = ("SOLVER.MAX_ITER", 250, "SOLVER.STEPS", "(195,)", "SOLVER.WARMUP_ITERS", 28)  # of MIC, control and oracle
PICTURED = 3  # images of before_after.jpg, without labels: it fits a screen
BFLOAT16 = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16")


def main(args):
    if args.quick:
        print("warning: --quick is the default now, and has no effect; --full adds the comparison", file=sys.stderr)
    os.environ.setdefault("DETECTRON2_DATASETS", "datasets")
    output, start = Path(args.output), time.time()
    number_format = BFLOAT16 if Machine.found().bfloat16 else ()

    run_program("make-minicity")
    train(f"{CONFIGS}/{START}.yaml", output / START, [*SHORT_START, *number_format, *args.opts])
    opts = [*SHORT, *number_format, "MODEL.WEIGHTS", output / START / "model_final.pth", *args.opts]
    train(f"{CONFIGS}/{MIC}.yaml", output / MIC, opts)
    picture = draw(output)
    for name in (CONTROL, ORACLE) if args.full else ():
        train(f"{CONFIGS}/{name}.yaml", output / name, opts)
    report(output, picture, time.time() - start)


def draw(output):
    """Before and after in foggy images, and the pseudo-boxes of MIC's teacher; returns the first picture."""
    folder = output / "pictures"
    runs = [output / START, output / MIC]
    before, after = (config(str(run / "config.yaml"), str(run / "model_final.pth")) for run in runs)
    with Outputs(folder, "demo", overwrite=True).writing("before_after.jpg") as file:
        write_picture(file, before_after(before, after, (), load_truth(after), PICTURED, labels=False))
    print(printable(f"\nbefore and after: {folder / 'before_after.jpg'}"), flush=True)
    run_program("visualize", "--config-file", output / MIC / "config.yaml", "--output", folder, "--overwrite",
                "MODEL.WEIGHTS", output / MIC / "model_final.pth")  # fmt: skip
    return folder / "before_after.jpg"


# label, run, metric
ROWS = (
    ("source-only, clear val", START, "minicity_clear_val/bbox/AP50"),
    ("source-only, foggy val", START, "minicity_foggy_val/bbox/AP50"),
    ("source-only (fair), foggy val", CONTROL, "bbox/AP50"),
    ("MIC (teacher), foggy val", MIC, "bbox/AP50"),
    ("oracle (foggy labels), foggy val", ORACLE, "bbox/AP50"),
)
WHAT_IT_IS = """\
These numbers are of one seed on a small synthetic city, after a short training; docs/results.md has several seeds.
"""
FAIR = """\
MIC has also trained longer than its start: a part of the gain may be due to that. --full measures it, with a control
that trains for as many steps on clear images alone, and adds the oracle.
"""


def report(output, picture, seconds):
    print(f"\nAP50 on the miniature city ({seconds / 60:.1f} minutes in this call)")
    trained = set()
    for label, name, metric in ROWS:
        if not (output / name / "metrics.json").is_file():
            continue
        run = read_run(output / name)
        values = [v[metric] for v in run.metrics.values() if metric in v]
        if values:
            trained.add(name)
            print(f"  {label:34s} {values[-1]:5.1f}   {'' if name == START else '+ '}{run.last_step} steps")
    print(WHAT_IT_IS + ("" if {CONTROL, ORACLE} <= trained else FAIR))
    lines = (
        ("look at", picture), ("pseudo-boxes", picture.with_name("contact_sheet.png")),
        ("checkpoints", output / START / "model_final.pth"),
        ("", f"{output / MIC / 'model_final.pth'}  (teacher and student)"),
        ("logs", f"{output}/*/log.txt, metrics.json; tensorboard --logdir {output}"),
    )  # fmt: skip
    for name, value in lines:
        print(printable(f"{name:12s} {value}"))
