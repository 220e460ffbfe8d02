"""Write the teacher (or student) alone: as ONNX, TorchScript or a web page, or for plain Detectron2."""

import os

from ..checkpoint.export import export, single_detector
from ..data.pixels import read_rgb
from ..deploy.compare import verify
from ..deploy.files import TorchScriptPredictor, describe, write_onnx, write_torchscript
from ..deploy.onnx_predictor import OnnxPredictor
from ..deploy.trace import Traceable, threshold_facts
from ..deploy.web import write_page
from ..engine.setup import config_of
from ..errors import DataError
from ..inference.media import find_images
from ..inference.predictor import class_list, load_model, load_with_classes
from ..utils.outputs import Outputs
from ..utils.printable import printable

WRITERS = {"onnx": (write_onnx, OnnxPredictor), "torchscript": (write_torchscript, TorchScriptPredictor)}


def main(args):
    # a plain detector's config takes the same part of MIC's checkpoint
    args.opts = [*args.opts, "MODEL.MIC.WEIGHTS_FROM", args.model]
    if args.format == "detectron2":
        return export_checkpoint(args)
    args.opts += ["MODEL.DEVICE", "cpu", "MODEL.MIC.EVALUATE", args.model]
    if args.web:
        return export_page(args)
    outputs = Outputs(os.path.dirname(args.output) or ".", "export", [args.config_file], args.overwrite)
    outputs.check([os.path.basename(args.output)])
    sources = find_images(args.verify, "--verify") if args.verify else []
    with outputs.writing(os.path.basename(args.output)) as file:
        cfg, metadata = export_file(args, args.format, file)
        if sources:
            check_equal(args, cfg, file, sources)
    kinds = " and ".join({"boxes": "boxes", "pixels": "label maps"}[k] for k in metadata["predicts"])
    size = "x".join(map(str, args.size)) if args.size else "any size"
    opset = f", opset {metadata['opset']}" if metadata["opset"] else ""
    print(f"{printable(args.output)}: {args.format}, the {args.model}'s {kinds}, images of {size}{opset}")
    return None


def export_file(args, form, file, weights=None):
    """Write the model of the arguments (or that of other ``weights``) to ``file``; returns its config and metadata."""
    cfg = config_of(args)
    model, names = load_with_classes(cfg, weights, args.trust_checkpoint)
    detector = single_detector(model, args.model)
    metadata = describe(cfg, names, args.size, args.opset if form == "onnx" else None)
    WRITERS[form][0](Traceable.of(cfg, detector, args.size), metadata, file, args.size)
    return cfg, metadata


def export_page(args):
    models = [("adapted", None)]
    if args.source_only:
        models.insert(0, ("source-only", args.source_only))
    inputs = [args.config_file, args.source_only] if args.source_only else [args.config_file]
    writers = [
        (title, lambda file, weights=weights: export_file(args, "onnx", file, weights)[1]) for title, weights in models
    ]
    write_page(args.web, writers, inputs, args.overwrite)
    print(f"{printable(args.web)}: a page; `python -m http.server --directory {printable(args.web)}` shows it")


def check_equal(args, cfg, file, sources):
    """Compare the file with PyTorch on images.

    Raises:
        DataError: where they differ. The printed lines say where.
    """
    from .predict_checkpoint import CheckpointModel

    args.weights, args.confidence_threshold = None, threshold_facts(cfg)[0]
    candidate = WRITERS[args.format][1](file, args.confidence_threshold)
    reference = CheckpointModel(args)
    reference.load()
    verdict = verify(reference, candidate, sources, read_rgb)
    print("\n".join(map(printable, verdict.lines())))
    if verdict.different:
        raise DataError(
            f"--verify: the exported model differs from PyTorch on {len(verdict.different)} of {len(sources)} images, "
            "so it is not written: the lines above show the differences."
        )


def export_checkpoint(args):
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
