"""Show MIC at work on the miniature city: make it, train, adapt to fog without labels, draw pictures."""

import os
import time
from pathlib import Path

from ..experiments.run_files import read_run
from ..experiments.runs import run_program, train

CONFIGS = "minicity"


def main(args):
    os.environ.setdefault("DETECTRON2_DATASETS", "datasets")
    output = Path(args.output)
    start = time.time()

    run_program("make-minicity")
    train(f"{CONFIGS}/source_only.yaml", output / "source_only", args.opts)
    opts = ["MODEL.WEIGHTS", output / "source_only" / "model_final.pth", *args.opts]
    for name in ("mic",) if args.quick else ("mic", "source_finetuned", "oracle"):
        train(f"{CONFIGS}/{name}.yaml", output / name, opts)
    pictures = output / "pictures"
    run_program("visualize", "--config-file", f"{CONFIGS}/mic.yaml", "--output", pictures,
                "--overwrite", "MODEL.WEIGHTS", output / "mic" / "model_final.pth", *args.opts)  # fmt: skip
    report(output, pictures, time.time() - start)


def last_metrics(run_dir):
    """The last value of each metric of a run; nothing where it was not run."""
    if not (run_dir / "metrics.json").is_file():
        return {}
    return {k: v for values in read_run(run_dir).metrics.values() for k, v in values.items()}


ROWS = (
    ("source-only, clear val", "source_only", "minicity_clear_val/bbox/AP50"),
    ("source-only, foggy val", "source_only", "minicity_foggy_val/bbox/AP50"),
    ("source-only trained on, foggy val", "source_finetuned", "bbox/AP50"),
    ("MIC (teacher), foggy val", "mic", "bbox/AP50"),
    ("oracle (foggy labels), foggy val", "oracle", "bbox/AP50"),
)


def report(output, pictures, seconds):
    print(f"\nAP50 on the miniature city ({seconds / 60:.1f} minutes in this call)")
    for label, run_name, key in ROWS:
        value = last_metrics(output / run_name).get(key)
        if value is not None:
            print(f"  {label:34s} {value:5.1f}")
    print(f"\npictures     {pictures / 'contact_sheet.png'}")
    print(f"checkpoints  {output / 'source_only' / 'model_final.pth'}")
    print(f"             {output / 'mic' / 'model_final.pth'}  (teacher and student)")
    print(f"logs         {output}/*/log.txt, metrics.json; tensorboard --logdir {output}")
