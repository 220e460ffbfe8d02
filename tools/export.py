"""Write the teacher (or student) alone, for plain Detectron2: a checkpoint, and a config without mic_det's keys.

Both load without mic_det. Example:
    python tools/export.py --config-file configs/minicity/mic.yaml --output exported/mic.pth \
        MODEL.WEIGHTS output/minicity/mic/model_final.pth
"""

import argparse
import sys

from mic_det.checkpoint.export import export
from mic_det.engine.setup import add_model_arguments, config_of
from mic_det.errors import MICError
from mic_det.inference.predictor import class_list, load_model
from mic_det.utils.outputs import add_overwrite_argument
from mic_det.utils.printable import printable
from mic_det.utils.programs import start_program


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", required=True, help="FILE.pth or FILE.safetensors; FILE.yaml is written beside it")
    parser.add_argument("--model", choices=("teacher", "student"), default="teacher",
                        help="which of MIC's two (%(default)s)")  # fmt: skip
    add_overwrite_argument(parser)
    add_model_arguments(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as for train_net.py")
    args = parser.parse_args()
    if not args.output.endswith((".pth", ".safetensors")):
        parser.error(f"--output {args.output}: use a name that ends with .pth or .safetensors")
    return args


def main(args):
    # a plain detector's config takes the same part of MIC's checkpoint
    args.opts = [*args.opts, "MODEL.MIC.WEIGHTS_FROM", args.model]
    cfg = config_of(args)
    model = load_model(cfg, trust_checkpoint=args.trust_checkpoint)
    names = [name for _, name in class_list(cfg)]
    inputs = [args.config_file, cfg.MODEL.WEIGHTS]
    configs = export(cfg, model, args.model, args.output, names, inputs, args.overwrite)
    print(f"{printable(args.output)}: the {args.model}'s weights")
    for path in configs:
        print(f"{printable(path)}: plain Detectron2's config; its model gives the same answers")
    if len(configs) > 1:
        print("Plain Detectron2 has no model with boxes and pixels but without masks: one config for each, one file.")
    if args.output.endswith(".safetensors"):
        print("Detectron2's DetectionCheckpointer reads no safetensors: the head of the config tells how to load it.")


if __name__ == "__main__":
    start_program()
    try:
        main(parse_args())
    except MICError as e:
        sys.exit(f"error: {e}")
