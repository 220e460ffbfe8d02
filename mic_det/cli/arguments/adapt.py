"""Two folders in, an adapted detector out. No config file and no Python are needed.

SOURCE has images with labels. The format is recognised: COCO JSON, Pascal VOC XML or YOLO text. TARGET has images
without labels, or is a video. The command checks all images and labels, and prints a plan. Then it trains a source
model and adapts it to the target. After an interruption, the same call resumes. OUT then has model.pth, predictions on
the target, report.html, before_after.jpg, and a config for each training. `mic-det train` runs these configs, too.

Examples:
    {program} day fog_images --output out --dry-run           # checks, and prints the plan
    {program} day fog_images --output out --test fog_labelled
    {program} day drive.mp4 --output out --classes car person
    {program} output/source_only fog_images --output out      # starts from a finished run
    {program} fog_images --source-checkpoint output/source_only --output out     # without source images
"""

from ...utils.arguments import add_config_argument, split_opts

FIXED = ("MODEL.WEIGHTS", "OUTPUT_DIR", "SOLVER.MAX_ITER")
INTERMIXED = True  # options may be before and after SOURCE and TARGET


def add(parser):
    parser.add_argument("source", metavar="SOURCE", help="labelled folder, COCO file, folder of a run, or weights")
    parser.add_argument("target", metavar="TARGET", nargs="?", help="folder of images, or a video")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys for both trainings")
    parser.add_argument("--output", required=True, metavar="OUT", help="folder of all results")
    parser.add_argument("--test", metavar="TEST", help="labelled images of the target, only for evaluation")
    parser.add_argument(
        "--source-checkpoint", metavar="MODEL",
        help="a run or weights in place of SOURCE, without its images",
    )  # fmt: skip
    parser.add_argument("--target-labels", metavar="LABELS", help="labelled images of the target")
    parser.add_argument("--labels-from", metavar="FILE", help="boxes of another detector")
    parser.add_argument("--dry-run", action="store_true", help="check, print the plan, and stop")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps of each training (default: planned)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="learn only these classes of the labels")
    parser.add_argument("--weights", metavar="FILE", help="ImageNet weights of a torchvision classifier")
    parser.add_argument(
        "--frames", type=int, default=300, metavar="N", help="take at most N frames of a video (%(default)s)"
    )
    parser.add_argument("--num-gpus", type=int, metavar="N", help="GPUs to use (default: all of this machine)")
    add_config_argument(parser, required=False, default="")  # of SOURCE or MODEL, where it is a file of weights


def check(parser, args):
    if args.source_checkpoint:  # then the only positional argument is TARGET
        args.opts = [*([args.target] if args.target else []), *args.opts]
        args.source, args.target = args.source_checkpoint, args.source
    if not args.target:
        parser.error("TARGET is missing: name a folder of images, or a video")
    if args.classes:
        args.classes, args.opts = split_opts(args.classes, args.opts)
    for name, least in (("steps", 1), ("frames", 2), ("num_gpus", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} is {value}: use at least {least}")
    fixed = next((k for k in args.opts[::2] if k in FIXED or k.startswith("DATASETS.")), None)
    if fixed:
        parser.error(f"this command chooses {fixed}: change it in the config files that the command writes")
    if len(args.opts) % 2:
        parser.error(f"KEY VALUE: {' '.join(args.opts)} is not a list of pairs: give each key one value")
