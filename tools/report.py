"""Make one HTML file about one or several runs: results side by side, curves, pictures, settings.

It holds everything in itself and opens without a network. Runs that were killed, or still go on, are shown
as far as they came. Example:
    python tools/report.py output/minicity/source_only output/minicity/mic --output report.html
"""

import argparse
import os
import sys

from mic_det.data.catalog import DataError
from mic_det.visualization.report import build_report
from mic_det.visualization.run_files import distinct_names, read_run


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="OUTPUT_DIR of a training")
    parser.add_argument("--output", default="report.html", help="the file to write (%(default)s)")
    parser.add_argument("--pictures", nargs="+", default=[], metavar="DIR",
                        help="folders of pictures to show beside those in RUN_DIR/visuals")  # fmt: skip
    parser.add_argument("--max-pictures", type=int, default=12, help="of each folder, evenly spread (%(default)s)")
    return parser.parse_args()


def main(args):
    missing = next((d for d in args.pictures if not os.path.isdir(d)), None)
    if missing:
        raise DataError(f"--pictures {missing}: there is no such folder.")
    runs = distinct_names([read_run(folder) for folder in args.runs])
    html = build_report(runs, args.pictures, args.max_pictures)
    try:
        os.makedirs(os.path.dirname(args.output) or ".", exist_ok=True)
        with open(args.output, "w", encoding="utf-8") as f:
            f.write(html)
    except OSError as e:
        raise DataError(f"cannot write {args.output} ({e.strerror}): check --output.") from e
    for run in runs:
        for note in run.notes:
            print(f"{run.name}: {note}")
    print(f"{args.output}: {len(runs)} runs, {len(html) / 2**20:.1f} MiB")


if __name__ == "__main__":
    try:
        main(parse_args())
    except DataError as e:
        sys.exit(f"error: {e}")
