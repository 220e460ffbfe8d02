"""How well do the criteria choose? A table of the files that `mic-det select --judge NAME` wrote.

For each criterion, and for their combination: Spearman's rho with AP50, regret (the best AP50 of a run minus that of
the chosen checkpoint, mean over runs), and how many collapsed checkpoints have a lower score than their start.

With --search, the files are used to choose a combination: that of at most 4 criteria with equal weights that misses
fewest collapsed checkpoints, then has the smallest regret, then the largest rho. Judge it on other files.

Examples:
    {program} select_city.json select_camvid.json
    {program} other_city.json --search
    {program} select_city.json --combination flip_agreement=1,count_distance=1
"""


def add(parser):
    parser.add_argument("files", nargs="+", metavar="FILE", help="files of `mic-det select --judge NAME`")
    parser.add_argument(
        "--combination", default="", metavar="LIST", help="judge this one instead: NAME=WEIGHT, joined by commas"
    )
    parser.add_argument("--search", action="store_true", help="show the five best combinations on the files together")
    parser.add_argument("--output", default="", metavar="FILE", help="also write the table as JSON")


def check(parser, args):
    pairs = [x.partition("=") for x in args.combination.split(",") if x]
    try:
        args.combination = {name: float(weight) for name, _, weight in pairs}
    except ValueError:
        parser.error(f"--combination {args.combination}: use NAME=WEIGHT, joined by commas")
