"""Show MIC at work on the miniature city: make it, train, adapt to fog without labels, draw pictures.

A detector is trained on clear images (the strong start). From there MIC, by the recommended recipe, adapts it with
foggy images but not their labels. --full also trains it for as many steps on clear images alone (the control), and
with the labels of foggy images (the oracle). All have fewer steps than the configs have. Each part is a command of its
own, which is printed before it runs. A second call continues where the first one stopped.

Example:
    {program} --output output/demo
"""

from ...utils.arguments import add_opts_argument


def add(parser):
    parser.add_argument(
        "--output", default="output/demo", metavar="DIR", help="folder for checkpoints, logs, pictures (%(default)s)"
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--full", action="store_true", help="also the control and the oracle, for a fair comparison")
    extent.add_argument("--quick", action="store_true", help="the default now; has no effect")
    add_opts_argument(parser)
