"""Show MIC at work on the miniature city: make it, train, adapt to fog without labels, draw pictures.

Four detectors of one kind are trained: on clear images; on clear images for longer; by MIC, with foggy
images but not their labels; and the oracle, on the labels of foggy images. Each part is a command of its
own, printed before it runs; a second call continues where the first one stopped. Example:
    python tools/demo.py --output output/demo
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = "configs/minicity"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="output/demo", help="folder for checkpoints, logs and pictures")
    parser.add_argument("--quick", action="store_true", help="only the start and MIC: no longer training, no oracle")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for every training")
    args = parser.parse_args()
    os.chdir(ROOT)
    os.environ.setdefault("DETECTRON2_DATASETS", "datasets")
    # waiting threads that spin would take the cores from whatever else runs on a shared machine
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    output = Path(args.output)
    start = time.time()

    run("datasets/make_minicity.py")
    train("source_only", output, args.opts)
    adapted_from = ["MODEL.WEIGHTS", str(output / "source_only" / "model_final.pth")]
    train("mic", output, [*adapted_from, *args.opts])
    if not args.quick:
        train("source_longer", output, [*adapted_from, *args.opts])
        train("oracle", output, args.opts)
    pictures = output / "pictures"
    run("tools/visualize_pseudo_boxes.py", "--config-file", f"{CONFIGS}/mic.yaml", "--output", str(pictures),
        "MODEL.WEIGHTS", str(output / "mic" / "model_final.pth"), *args.opts)  # fmt: skip
    report(output, pictures, time.time() - start)


def train(name, output, opts):
    """One run of tools/train_net.py, resumed where an earlier one stopped."""
    config = f"{CONFIGS}/{name}.yaml"
    run("tools/train_net.py", "--config-file", config, "--resume", *opts, "OUTPUT_DIR", str(output / name))


def run(*command):
    print("\n$ python " + " ".join(command), flush=True)
    done = subprocess.run([sys.executable, *command], env={**os.environ, "PYTHONWARNINGS": "ignore"})
    if done.returncode:
        sys.exit(f"error: the command above failed with exit code {done.returncode}; `make demo` continues from here.")


def last_metrics(run_dir):
    """The last value of each metric in a run's metrics.json; nothing where it was not run."""
    metrics, file = {}, run_dir / "metrics.json"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        metrics.update(json.loads(line))
    return metrics


ROWS = (
    ("source-only, clear val", "source_only", "minicity_clear_val/bbox/AP50"),
    ("source-only, foggy val", "source_only", "minicity_foggy_val/bbox/AP50"),
    ("source-only trained on, foggy val", "source_longer", "bbox/AP50"),
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
    main()
