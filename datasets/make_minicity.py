"""Make the miniature city: street scenes, clear and foggy, in Cityscapes' layout with COCO files beside.

Example:
    python datasets/make_minicity.py --output datasets/minicity
"""

import argparse
import os
import sys

from mic_det.data.minicity import make_minicity
from mic_det.errors import MinicityError
from mic_det.utils.printable import printable
from mic_det.utils.programs import start_program


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--output", default=os.path.join(root, "minicity"), help="folder (default: %(default)s)")
    parser.add_argument("--train", type=int, default=250, help="training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=60, help="validation images (default: %(default)s)")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--beta", type=float, nargs="+", default=[0.02], help="fog densities in 1/m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--overwrite", action="store_true", help="make every image again")
    args = parser.parse_args()
    try:
        summary = make_minicity(
            args.output, args.train, args.val, (args.width, args.height), args.beta, args.seed, args.workers,
            args.overwrite,
        )  # fmt: skip
    except MinicityError as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        print("interrupted: the same command continues from here", file=sys.stderr)
        sys.exit(130)
    for split, counts in summary.items():
        boxes = ", ".join(f"{name} {number}" for name, number in counts["boxes"].items())
        print(f"{split}: {counts['images']} images, {sum(counts['boxes'].values())} boxes ({boxes})")
    print(f"in {printable(args.output)}")


if __name__ == "__main__":
    start_program()
    main()
