"""Make one HTML file about one or several runs: results side by side, curves, pictures, settings.

The file is complete in itself and opens without a network. Runs that were stopped, or are still running, are shown up
to their last step.

Example:
    {program} output/minicity/source_only output/minicity/mic --output report.html
"""

from ...utils.arguments import add_overwrite_argument


def add(parser):
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="OUTPUT_DIR of a training")
    parser.add_argument("--output", default="report.html", metavar="FILE", help="the file to write (%(default)s)")
    parser.add_argument(
        "--pictures", nargs="+", default=[], metavar="DIR",
        help="folders of pictures to show beside those in RUN_DIR/visuals",
    )  # fmt: skip
    parser.add_argument(
        "--max-pictures",
        type=int,
        default=12,
        metavar="N",
        help="at most N of each folder, evenly spread (%(default)s)",
    )
    parser.add_argument(
        "--label-free", nargs="+", default=[], metavar="FILE", help="files of `mic-det select` and `mic-det estimate`"
    )
    add_overwrite_argument(parser)
