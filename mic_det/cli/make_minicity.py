"""Make the miniature city: street scenes, clear and foggy, in Cityscapes' layout with COCO files beside."""

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
        print("interrupted: the same command continues from here", file=sys.stderr)
        return 130
    for split, counts in summary.items():
        boxes = ", ".join(f"{name} {number}" for name, number in counts["boxes"].items())
        print(f"{split}: {counts['images']} images, {sum(counts['boxes'].values())} boxes ({boxes})")
    print(f"in {printable(args.output)}")
    return 0
