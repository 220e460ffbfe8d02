"""Show MIC at work on the miniature city: make it, train, adapt to fog without labels, draw pictures.

A detector is trained on clear images. From there it is trained further in three ways, for as many steps each: on clear
images; by MIC, with foggy images but not their labels; and as the oracle, with the labels of foggy images. Each part
is a command of its own, which is printed before it runs. A second call continues where the first one stopped.

Example:
    {program} --output output/demo
"""

from ...utils.arguments import add_opts_argument


def add(parser):
    parser.add_argument(
        "--output", default="output/demo", metavar="DIR", help="folder for checkpoints, logs, pictures (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="only the start and MIC: no longer training, no oracle")
    add_opts_argument(parser)
