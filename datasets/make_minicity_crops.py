"""Make minicity_crops for image classifiers: squares around the things of the miniature city, clear and foggy.

It needs the miniature city (datasets/make_minicity.py).
Example:
    python datasets/make_minicity_crops.py
"""

import argparse
import os
import sys

from mic_det.data.minicity.crops import make_minicity_crops
from mic_det.errors import MICError
from mic_det.utils.printable import printable
from mic_det.utils.programs import start_program


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--root", default=os.path.join(root, "minicity"), help="the city (default: %(default)s)")
    parser.add_argument("--output", default=os.path.join(root, "minicity_crops"), help="folder (default: %(default)s)")
    parser.add_argument("--beta", default="0.02", help="density of the fog in 1/m (default: %(default)s)")
    parser.add_argument("--size", type=int, default=72, help="side of a crop in pixels (default: %(default)s)")
    parser.add_argument("--min-side", type=float, default=16, help="smallest side of a box (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    args = parser.parse_args()
    if args.size < 8 or (args.workers is not None and args.workers < 1):
        parser.error("--size must be at least 8, and --workers at least 1")
    try:
        counts = make_minicity_crops(
            args.root, args.output, args.beta, args.min_side, size=args.size, workers=args.workers
        )
    except MICError as e:
        sys.exit(f"error: {printable(e)}")
    except KeyboardInterrupt:
        sys.exit(130)
    for split, classes in counts.items():
        each = ", ".join(f"{name} {number}" for name, number in classes.items())
        print(f"{split}: {sum(classes.values())} crops in each domain ({each})")
    print(f"written to {printable(args.output)}")


if __name__ == "__main__":
    start_program()
    main()
