"""Make the miniature city: street scenes, clear and foggy, in Cityscapes' layout with COCO files beside.

Example:
    {program} --output datasets/minicity
"""

import os


def add(parser):
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
