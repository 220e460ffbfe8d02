"""How well do the criteria choose? A table of the files that `mic-det select --judge NAME` wrote.

For each criterion, and for their combination: Spearman's rho with AP50, regret (the best AP50 of a run minus that of
the chosen checkpoint, mean over runs), and how many collapsed checkpoints have a lower score than their start.

Example:
    {program} select_city.json select_camvid.json
"""


def add(parser):
    parser.add_argument("files", nargs="+", metavar="FILE", help="files of `mic-det select --judge NAME`")
    parser.add_argument("--output", default="", metavar="FILE", help="also write the table as JSON")
