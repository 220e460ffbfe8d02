"""Train methods side by side over several seeds, and write one table, curves and a report of all runs.

A plan (see configs/minicity/ablation.yaml) says what is compared. Each seed has a burn-in on the source alone,
from whose weights all methods of that seed go on. Runs that are complete are not repeated, and one that was
stopped goes on: the same call continues. Choose settings on other seeds, or another split, than you report:
    {program} --seeds 1 --output output/choose --cells MIC
    {program} --output output/ablation
    {program} --output output/ablation --table     # only the table of what is there
"""

from ...utils.arguments import add_overwrite_argument


def add(parser):
    parser.add_argument("--plan", default="minicity/ablation.yaml", help="YAML file (%(default)s)")
    parser.add_argument("--output", default="output/ablation", help="folder of all runs (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the plan's SEEDS")
    parser.add_argument("--cells", nargs="+", help="only these methods")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, which share the cores (%(default)s)")
    parser.add_argument("--threads", type=int, help="of each training's arithmetic (default: all cores)")
    parser.add_argument("--table", action="store_true", help="train nothing")
    add_overwrite_argument(parser)
