"""Check the data sets of a config before training: every image is opened, every box looked at, sets compared.

Exits with 1 where something would stop a training or spoil its numbers; training itself checks only what is cheap.
Example:
    python datasets/check.py --config-file configs/minicity/mic.yaml
"""

import argparse
import sys

from mic_det.data.audit import check_config_datasets, format_reports
from mic_det.engine.setup import config_of
from mic_det.errors import MICError
from mic_det.utils.own_code import add_import_argument
from mic_det.utils.printable import printable
from mic_det.utils.programs import start_program

MOST = 50  # problems shown a set


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    add_import_argument(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that override the config")
    args = parser.parse_args()
    if args.workers is not None and args.workers < 1:
        parser.error("--workers: at least 1")
    try:
        cfg = config_of(args)
        reports, problems = check_config_datasets(cfg, args.workers)
    except MICError as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(format_reports(reports))
    for report in reports:
        problems += report.problems[:MOST]
        if len(report.problems) > MOST:
            problems.append(f"{report.name}: and {len(report.problems) - MOST} more.")
    for problem in problems:
        print(printable(f"problem: {problem}"))
    print(f"{len(problems)} problems" if problems else "no problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    start_program()
    main()
