"""Make one HTML file about one or several runs: results side by side, curves, pictures, settings."""

import os
from pathlib import Path

from ..errors import DataError
from ..experiments.label_free_tables import read_table
from ..experiments.report import build_report
from ..experiments.run_files import FILES_OF_A_RUN, distinct_names, read_run
from ..utils.outputs import Outputs
from ..utils.printable import printable


def main(args):
    missing = next((d for d in args.pictures if not os.path.isdir(d)), None)
    if missing:
        raise DataError(f"--pictures {missing}: there is no such folder.")
    output = Path(args.output)
    read = [Path(folder) / name for folder in args.runs for name in FILES_OF_A_RUN]
    outputs = Outputs(output.parent, "report", [*read, *args.pictures, *args.label_free], args.overwrite)
    outputs.check([output.name])
    runs = distinct_names([read_run(folder) for folder in args.runs])
    tables = [read_table(file) for file in args.label_free]
    html = build_report(runs, args.pictures, args.max_pictures, tables)
    outputs.write_text(output.name, html)
    for run in runs:
        for note in run.notes:
            print(printable(f"{run.name}: {note}"))
    print(f"{printable(args.output)}: {len(runs)} runs, {len(html) / 2**20:.1f} MiB")
