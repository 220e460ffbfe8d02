"""Make foggy images: Foggy Cityscapes from Cityscapes' disparity and camera files, or from images with depth maps.

Use it if you cannot get the official Foggy Cityscapes. A second call continues where the first one stopped.
Examples:
    python datasets/make_fog.py --cityscapes datasets/cityscapes --split train val --beta 0.02
    python datasets/make_fog.py --images day --depth depth --depth-scale 0.001 --focal 1000 --output foggy
"""

import argparse
import os
import sys

from mic_det.data.datasets.foggy import make_foggy_cityscapes, make_foggy_folder
from mic_det.errors import MICError
from mic_det.utils.programs import start_program


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--cityscapes", help=f"folder of Cityscapes (default: {os.path.join(root, 'cityscapes')})")
    parser.add_argument("--split", nargs="+", default=["train", "val"], help="Cityscapes' splits (default: train val)")
    parser.add_argument("--images", help="instead of Cityscapes: a folder of images ...")
    parser.add_argument("--depth", help="... the folder of their depth maps (NAME.png of integers, or NAME.npy) ...")
    parser.add_argument("--output", help="... and the folder for the foggy images")
    parser.add_argument("--depth-scale", type=float, default=1.0, help="metres per unit of the depth maps (default: 1)")
    parser.add_argument("--focal", type=float, help="focal length in pixels; without it, depth is used as distance")
    parser.add_argument("--beta", nargs="+", default=["0.02"], help="attenuation in 1/m (default: 0.02)")
    parser.add_argument("--airlight", type=float, nargs=3, metavar=("R", "G", "B"), help="0-255 (default: estimated)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--overwrite", action="store_true", help="make existing images again")
    args = parser.parse_args()
    _check(parser, args)
    common = dict(airlight=args.airlight, workers=args.workers, overwrite=args.overwrite)
    try:
        if args.images:
            written, present = make_foggy_folder(
                args.images, args.depth, args.output, args.beta, depth_scale=args.depth_scale, focal=args.focal,
                **common,
            )  # fmt: skip
        else:
            folder = args.cityscapes or os.path.join(root, "cityscapes")
            written, present = make_foggy_cityscapes(folder, args.split, args.beta, **common)
    except MICError as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        print("Interrupted. Call the same command again to continue.", file=sys.stderr)
        sys.exit(130)
    print(f"{written} foggy images written, {present} existed before")


def _check(parser, args):
    if args.images and args.cityscapes:
        parser.error("give --cityscapes or --images, not both")
    if args.images and not (args.depth and args.output):
        parser.error("--images needs --depth and --output")
    for beta in args.beta:
        try:
            usable = 0 <= float(beta) < float("inf")
        except ValueError:
            usable = False
        if not usable:
            parser.error(f"--beta {beta}: use a number of at least 0")
    if args.airlight and not all(0 <= v <= 255 for v in args.airlight):
        parser.error("--airlight: use three numbers in 0 to 255")
    if args.depth_scale <= 0 or (args.focal is not None and args.focal <= 0):
        parser.error("--depth-scale and --focal must be greater than 0")
    if args.workers is not None and args.workers < 1:
        parser.error("--workers: use at least 1")


if __name__ == "__main__":
    start_program()
    main()
