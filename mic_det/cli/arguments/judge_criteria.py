"""How well do the criteria choose? A table of the files that `mic-det select --judge NAME` wrote.

For each criterion, and for their combination:
rho        Spearman's rank correlation with AP50, over all checkpoints
regret     the best AP50 of a run and its start minus that of the chosen checkpoint, mean over runs
across     the same for the choice among all runs with one start, mean over starts
mask       how much it favours runs with the mask consistency over self-training without a mask: of pairs with about
           equal AP50, the share in which it prefers them, minus the share in which AP50 does (0 = fair, -1 to 1)
self       how much it favours both over trainings without pseudo-labels
collapsed  how many checkpoints far below their start have a lower score than it

With --search, the files are used to choose a combination of at most 4 criteria with equal weights: those that miss
fewest collapsed checkpoints, of them those that favour no way of training (mask and self within 0.25), of them the one
with the smallest regret, then the largest rho. Judge it on other files.

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
