"""Make one HTML file about one or several runs: results side by side, curves, pictures, settings.

It holds everything in itself and opens without a network. Runs that were killed, or still go on, are shown
as far as they came. Example:
    python tools/report.py output/minicity/source_only output/minicity/mic --output report.html
"""

import argparse
import os
import sys
from pathlib import Path

from mic_det.errors import DataError
from mic_det.experiments.report import build_report
from mic_det.experiments.run_files import FILES_OF_A_RUN, distinct_names, read_run
from mic_det.utils.outputs import Outputs, add_overwrite_argument
from mic_det.utils.printable import printable
from mic_det.utils.programs import start_program


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="OUTPUT_DIR of a training")
    parser.add_argument("--output", default="report.html", help="the file to write (%(default)s)")
    parser.add_argument("--pictures", nargs="+", default=[], metavar="DIR",
                        help="folders of pictures to show beside those in RUN_DIR/visuals")  # fmt: skip
    parser.add_argument("--max-pictures", type=int, default=12, help="of each folder, evenly spread (%(default)s)")
    add_overwrite_argument(parser)
    return parser.parse_args()


def main(args):
    missing = next((d for d in args.pictures if not os.path.isdir(d)), None)
    if missing:
        raise DataError(f"--pictures {missing}: there is no such folder.")
    output = Path(args.output)
    read = [Path(folder) / name for folder in args.runs for name in FILES_OF_A_RUN]
    outputs = Outputs(output.parent, "report", [*read, *args.pictures], args.overwrite)
    outputs.check([output.name])
    runs = distinct_names([read_run(folder) for folder in args.runs])
    html = build_report(runs, args.pictures, args.max_pictures)
    outputs.write_text(output.name, html)
    for run in runs:
        for note in run.notes:
            print(printable(f"{run.name}: {note}"))
    print(f"{printable(args.output)}: {len(runs)} runs, {len(html) / 2**20:.1f} MiB")


if __name__ == "__main__":
    start_program()
    try:
        main(parse_args())
    except DataError as e:
        sys.exit(f"error: {e}")
