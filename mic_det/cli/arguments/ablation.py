"""Train methods side by side over several seeds, and write one table, curves and a report of all runs.

A plan (see configs/minicity/ablation.yaml) lists the methods. Each seed first has a burn-in on the source alone. All
methods of the seed start from its weights. After an interruption, call the same command again: finished runs are not
repeated, and a stopped run resumes. Choose settings on other seeds, or on another split, than those that you report:
    {program} --seeds 1 --output output/choose --cells MIC
    {program} --output output/ablation
    {program} --output output/ablation --table     # only the table of the finished runs
    {program} --jobs 12 --threads 1 SOLVER.AMP.ENABLED False     # on a GPU, which small trainings share well
"""

from ...utils.arguments import add_opts_argument, add_overwrite_argument, split_opts


def add(parser):
    parser.add_argument("--plan", default="minicity/ablation.yaml", help="YAML file (%(default)s)")
    parser.add_argument("--output", default="output/ablation", help="folder of all runs (%(default)s)")
    parser.add_argument("--seeds", nargs="+", help="seeds, instead of the plan's SEEDS")
    parser.add_argument("--cells", nargs="+", help="train only these methods")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at the same time; they share the cores (%(default)s)"
    )
    parser.add_argument("--threads", type=int, help="threads of each training (default: all cores)")
    parser.add_argument("--table", action="store_true", help="train nothing, write only the results")
    add_overwrite_argument(parser)
    add_opts_argument(parser)


def check(parser, args):
    seeds, rest = split_opts(args.seeds or [], args.opts)
    cells, args.opts = split_opts(args.cells or [], rest)
    try:
        args.seeds, args.cells = [int(x) for x in seeds] or None, cells or None
    except ValueError:
        parser.error(f"--seeds {' '.join(seeds)}: use whole numbers")
    if len(args.opts) % 2:
        parser.error(f"KEY VALUE: {' '.join(args.opts)} is not a list of pairs: give each key one value")
