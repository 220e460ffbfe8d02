"""Show MIC at work on the miniature city: make it, train, adapt to fog without labels, draw pictures.

Each part is a command of its own, which is printed before it runs; a second call continues where the
first one stopped. Example:
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
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for every training")
    args = parser.parse_args()
    os.chdir(ROOT)
    os.environ.setdefault("DETECTRON2_DATASETS", "datasets")
    output = Path(args.output)
    start = time.time()

    run("datasets/make_minicity.py")
    train("source_only", output, args.opts)
    train("mic", output, ["MODEL.WEIGHTS", str(output / "source_only" / "model_final.pth"), *args.opts])
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
    """The last value of each metric in a run's metrics.json."""
    metrics = {}
    for line in (run_dir / "metrics.json").read_text(encoding="utf-8").splitlines():
        metrics.update(json.loads(line))
    return metrics


def report(output, pictures, seconds):
    source, mic = last_metrics(output / "source_only"), last_metrics(output / "mic")
    rows = [
        ("source-only, clear val", source.get("minicity_clear_val/bbox/AP50")),
        ("source-only, foggy val", source.get("minicity_foggy_val/bbox/AP50")),
        ("MIC (teacher), foggy val", mic.get("bbox/AP50")),
    ]
    print(f"\nAP50 on the miniature city ({seconds / 60:.1f} minutes in this call)")
    for label, value in rows:
        print(f"  {label:26s} {value:5.1f}")
    print(f"\npictures     {pictures / 'contact_sheet.png'}")
    print(f"checkpoints  {output / 'source_only' / 'model_final.pth'}")
    print(f"             {output / 'mic' / 'model_final.pth'}  (teacher and student)")
    print(f"logs         {output}/*/log.txt, metrics.json; tensorboard --logdir {output}")


if __name__ == "__main__":
    main()
