"""Two folders in, an adapted detector out. No config file and no Python are needed.

SOURCE has images with labels: COCO JSON, Pascal VOC XML or YOLO text, which is recognised. TARGET has images without
labels, or is a video. All is checked first, and the plan is printed. A source model is trained, then adapted to the
target. The same call again continues after an interruption. In OUT are then model.pth, predictions of the target,
report.html, before_after.jpg, and a config for each training, which `mic-det train` runs as well.

Examples:
    {program} day fog_images --output out --dry-run           # checks, and says the plan
    {program} day fog_images --output out --test fog_labelled
    {program} day drive.mp4 --output out --classes car person
    {program} output/source_only fog_images --output out      # from a finished run
"""

from ...utils.arguments import add_config_argument, split_opts

FIXED = ("MODEL.WEIGHTS", "OUTPUT_DIR", "SOLVER.MAX_ITER")
INTERMIXED = True  # options may stand before and after SOURCE and TARGET


def add(parser):
    parser.add_argument("source", metavar="SOURCE", help="labelled folder, COCO file, run folder, or weights")
    parser.add_argument("target", metavar="TARGET", help="folder of images, or a video")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys for both trainings")
    parser.add_argument("--output", required=True, metavar="OUT", help="folder for everything that is made")
    parser.add_argument("--test", metavar="TEST", help="labelled images of the target, for evaluation alone")
    parser.add_argument("--dry-run", action="store_true", help="check, say the plan, and stop")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps of each training (default: planned)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="only these classes of the labels")
    parser.add_argument("--weights", metavar="FILE", help="ImageNet weights of a torchvision classifier")
    parser.add_argument("--frames", type=int, default=300, metavar="N", help="at most N of a video (%(default)s)")
    parser.add_argument("--num-gpus", type=int, metavar="N", help="default: all of this machine")
    add_config_argument(parser, required=False, default="")  # of SOURCE, where that is a file of weights


def check(parser, args):
    if args.classes:
        args.classes, args.opts = split_opts(args.classes, args.opts)
    for name, least in (("steps", 1), ("frames", 2), ("num_gpus", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} is {value}: use at least {least}")
    fixed = next((k for k in args.opts[::2] if k in FIXED or k.startswith("DATASETS.")), None)
    if fixed:
        parser.error(f"{fixed} is chosen by this command: change it in the config files that it writes")
    if len(args.opts) % 2:
        parser.error(f"KEY VALUE: {' '.join(args.opts)} is no list of pairs")
