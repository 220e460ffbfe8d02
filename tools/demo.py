"""Show MIC at work on the miniature city: make it, train, adapt to fog without labels, draw pictures.

A detector is trained on clear images. From there it goes on in three ways, of as many steps: on clear images;
by MIC, with foggy images but not their labels; and as the oracle, with the labels of foggy images. Each part is a
command of its own, printed before it runs; a second call continues where the first one stopped. Example:
    python tools/demo.py --output output/demo
"""

import argparse
import os
import sys
import time
from pathlib import Path

from mic_det.errors import RunError
from mic_det.experiments.run_files import read_run
from mic_det.experiments.runs import ROOT, run_program, train
from mic_det.utils.programs import start_program

CONFIGS = "configs/minicity"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="output/demo", help="folder for checkpoints, logs and pictures")
    parser.add_argument("--quick", action="store_true", help="only the start and MIC: no longer training, no oracle")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for every training")
    args = parser.parse_args()
    os.chdir(ROOT)
    os.environ.setdefault("DETECTRON2_DATASETS", "datasets")
    output = Path(args.output)
    start = time.time()

    run_program("datasets/make_minicity.py")
    train(f"{CONFIGS}/source_only.yaml", output / "source_only", args.opts)
    opts = ["MODEL.WEIGHTS", output / "source_only" / "model_final.pth", *args.opts]
    for name in ("mic",) if args.quick else ("mic", "source_finetuned", "oracle"):
        train(f"{CONFIGS}/{name}.yaml", output / name, opts)
    pictures = output / "pictures"
    run_program("tools/visualize_pseudo_boxes.py", "--config-file", f"{CONFIGS}/mic.yaml", "--output", pictures,
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


if __name__ == "__main__":
    start_program()
    try:
        main()
    except RunError as e:
        sys.exit(f"error: {e}")
