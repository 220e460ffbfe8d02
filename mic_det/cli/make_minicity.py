"""Make the miniature city: clear and foggy street scenes in Cityscapes' layout, and COCO files."""

import sys

from ..data.minicity import make_minicity
from ..utils.printable import printable


def main(args):
    """Returns the exit code."""
    try:
        summary = make_minicity(
            args.output, args.train, args.val, (args.width, args.height), args.beta, args.seed, args.workers,
            args.overwrite,
        )  # fmt: skip
    except KeyboardInterrupt:
        print("Interrupted. Call the same command again to continue.", file=sys.stderr)
        return 130
    for split, counts in summary.items():
        boxes = ", ".join(f"{name} {number}" for name, number in counts["boxes"].items())
        print(f"{split}: {counts['images']} images, {sum(counts['boxes'].values())} boxes ({boxes})")
    print(f"written to {printable(args.output)}")
    return 0
