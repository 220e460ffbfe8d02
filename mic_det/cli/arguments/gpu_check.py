"""Test and measure mic_det on a machine with a GPU: one call, a few minutes, no network.

Each part runs in a process of its own with a time limit. The parts are the machine, the tests marked `gpu`, the cost
of a step at 800 x 1600 pixels, memory, the loader, and a short training on the miniature city. After each part, the
results are written to gpu_check.json and gpu_check.md. --rehearse does the same on the CPU with small sizes.

Bare machines lack packages. Fetch them where there is a network, for the Python of the bare machine:
    {program} --fetch-wheels gpu_wheels --python 3.12
Then run there, from the checkout:
    {program} --wheels gpu_wheels --output output/gpu_check
    {program} --page docs/performance.md --output output/gpu_check
"""

from pathlib import Path

from ...benchmark.gpu_check.plan import PARTS
from ...utils.arguments import add_overwrite_argument


def add(parser):
    parser.add_argument(
        "--output", default="output/gpu_check", metavar="DIR", help="folder of the results (%(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=4.5, help="at most for all parts (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=[p.name for p in PARTS], metavar="PART", help=_names())
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install what cannot be imported from these wheels")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small sizes: nothing is measured")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--fetch-wheels", type=Path, metavar="DIR", help="download or build the wheels, and stop")
    others.add_argument("--page", type=Path, metavar="FILE", help="put the table of --output into a page, and stop")
    parser.add_argument("--python", default="3.12", metavar="X.Y", help="of the bare machine (default: %(default)s)")
    add_overwrite_argument(parser)


def _names():
    return "run only these parts: " + ", ".join(p.name for p in PARTS)


def needs_detectron2(args):
    return False  # each part imports it in its own process, and the wheels bring it
