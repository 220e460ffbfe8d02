"""Check the data sets of a config before training: open every image, look at every box, and compare the sets."""

import sys

from ..checkpoint.class_names import state_model_classes
from ..data.audit import check_config_datasets, format_reports
from ..engine.setup import config_of
from ..utils.printable import printable

MOST = 50  # problems of one set that are printed


def main(args):
    """Ends the program with exit code 1 where there are problems, else 0."""
    cfg = config_of(args)
    state_model_classes(cfg)  # without a source set, the checkpoint tells the classes
    reports, problems = check_config_datasets(cfg, args.workers)
    print(format_reports(reports))
    for report in reports:
        problems += report.problems[:MOST]
        if len(report.problems) > MOST:
            problems.append(f"{report.name}: and {len(report.problems) - MOST} more.")
    problems = list(dict.fromkeys(problems))  # what is wrong with several sets is printed once
    for problem in problems:
        print(printable(f"problem: {problem}"))
    print(f"{len(problems)} problems" if problems else "no problems")
    sys.exit(1 if problems else 0)
