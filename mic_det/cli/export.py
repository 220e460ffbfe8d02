"""Write the teacher (or student) alone, for plain Detectron2: a checkpoint, and a config without mic_det's keys."""

from ..checkpoint.export import export
from ..engine.setup import config_of
from ..inference.predictor import class_list, load_model
from ..utils.printable import printable


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
        print(f"{printable(path)}: plain Detectron2's config; its model gives the same predictions")
    if len(configs) > 1:
        print("Plain Detectron2 has no model with boxes and pixels but without masks.")
        print("So there is one config for the boxes and one for the pixels. Both use the same file of weights.")
    if args.output.endswith(".safetensors"):
        print(
            "Detectron2's DetectionCheckpointer does not read safetensors. The head of the config shows how to load it."
        )
