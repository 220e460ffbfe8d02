"""Make the miniature city: clear and foggy street scenes in Cityscapes' layout, and COCO files.

Example:
    {program} --output datasets/minicity
"""

import os


def add(parser):
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--output", default=os.path.join(root, "minicity"), help="folder (default: %(default)s)")
    parser.add_argument("--train", type=int, default=250, help="training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=60, help="validation images (default: %(default)s)")
    parser.add_argument("--width", type=int, default=512, help="pixels (default: %(default)s)")
    parser.add_argument("--height", type=int, default=256, help="pixels (default: %(default)s)")
    parser.add_argument("--beta", type=float, nargs="+", default=[0.02], help="fog densities in 1/m")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generator (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--overwrite", action="store_true", help="make every image again")
