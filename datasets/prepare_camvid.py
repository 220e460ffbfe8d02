"""Prepare CamVid: COCO files, label maps and foggy images from the public folder in SegNet's layout (docs/datasets.md).

It writes the folders annotations, label_maps and foggy into this folder. The same input gives the same files.
Example:
    python datasets/prepare_camvid.py --root datasets/camvid
"""

import argparse
import os
import sys
from collections import Counter

from mic_det.data.datasets.camvid import BETA, SETS, prepare_camvid
from mic_det.errors import MICError
from mic_det.utils.outputs import add_overwrite_argument
from mic_det.utils.printable import printable
from mic_det.utils.programs import start_program


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "camvid")
    parser.add_argument("--root", default=root, help="folder with train, trainannot, val, ... (default: %(default)s)")
    parser.add_argument("--beta", default=BETA, help="attenuation of the fog in 1/m (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    add_overwrite_argument(parser)
    args = parser.parse_args()
    if args.workers is not None and args.workers < 1:
        parser.error("--workers: use at least 1")
    try:
        usable = 0 <= float(args.beta) < float("inf")
    except ValueError:
        usable = False
    if not usable:
        parser.error(f"--beta {args.beta}: use a number of at least 0")
    try:
        contents = prepare_camvid(args.root, args.beta, args.workers, args.overwrite)
    except MICError as e:
        sys.exit(f"error: {printable(e)}")
    except KeyboardInterrupt:
        sys.exit(130)
    for name, content in contents.items():
        print(f"{name}: {summary(content)}")
        if len(content["images"]) != SETS[name].images:
            print(
                f"warning: the public folder has {SETS[name].images} images of {name}, but this one has "
                f"{len(content['images'])}. Results cannot be compared: unpack the folder again.",
                file=sys.stderr,
            )
    print(f"written to {printable(args.root)}")


def summary(content):
    """Images, and boxes per class where there are any."""
    images = f"{len(content['images'])} images"
    if "annotations" not in content:
        return f"{images}, no labels"
    counts = Counter(a["category_id"] for a in content["annotations"])
    boxes = ", ".join(f"{c['name']} {counts[c['id']]}" for c in content["categories"])
    return f"{images}, {len(content['annotations'])} boxes ({boxes})"


if __name__ == "__main__":
    start_program()
    main()
