"""A detector as a file of ONNX or TorchScript. Its metadata has the classes, sizes and thresholds."""

import json

import torch

from ..config import student_architecture
from ..config.label_kinds import label_kinds, refuse_image_classes
from ..data.pixels import Resize
from ..errors import ConfigError
from ..inference.detections import Detections
from ..inference.predictor import class_list, label_map_classes
from .compare import compare
from .onnx_predictor import FORMAT, METADATA, FilePredictor
from .trace import INPUTS, naming_layers, noise, threshold_facts

OPSET = 17  # of ONNX; 16 is the first whose RoiAlign has Detectron2's half pixels
TRIED = ((160, 224), (224, 128))  # sizes of the images that a new file is compared on


def describe(cfg, named_classes, size, opset=None):
    """What a file says about its model: the metadata ``mic_det``.

    Args:
        cfg (CfgNode): the model's.
        named_classes (list[str]): names of the checkpoint, or None.
        size ((int, int)): the fixed height and width; None where any size is allowed.
        opset (int): of ONNX.
    """
    from .. import __version__

    refuse_image_classes(cfg, "The export")
    kinds, (score, key, nms) = label_kinds(cfg), threshold_facts(cfg)
    rule = Resize.from_config(cfg, is_train=False)
    return {
        "format": FORMAT,
        "mic_det": __version__,
        "torch": torch.__version__,
        "opset": opset,
        "model": student_architecture(cfg),
        "predicts": list(kinds),
        "classes": [list(c) for c in class_list(cfg, named_classes)],
        "label_map_classes": label_map_classes(cfg) if "pixels" in kinds else [],
        "score_threshold": score,
        "score_threshold_key": key,
        "nms_threshold": nms,
        "resize": {"shorter": rule.shorter[0], "longer": rule.longer},
        "fixed_size": list(size) if size else None,
    }


def write_onnx(traceable, metadata, file, size=None):
    """
    Raises:
        ConfigError: where a layer cannot be exported, by its name; where onnx or onnxruntime is missing; where the
            file differs from PyTorch.
    """
    onnx = _need("onnx")
    _need("onnxruntime")
    dynamic = {x: {0: "found"} for x in ("boxes", "scores", "classes") if x in traceable.outputs}
    if "label_map" in traceable.outputs:
        dynamic["label_map"] = {0: "height", 1: "width"}
    if size is None:
        dynamic["image"] = {0: "resized_height", 1: "resized_width"}
    with naming_layers(traceable, "ONNX"):
        torch.onnx.export(
            traceable.adapter, traceable.example, str(file), dynamo=False, opset_version=metadata["opset"],
            input_names=list(INPUTS), output_names=list(traceable.outputs), dynamic_axes=dynamic,
        )  # fmt: skip
    model = onnx.load(str(file))
    model.producer_name, model.producer_version = "mic_det", metadata["mic_det"]
    onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata, ensure_ascii=False)})
    onnx.save(model, str(file))
    _check_same(traceable, _onnx_runner(file), size, "ONNX Runtime")


def write_torchscript(traceable, metadata, file, size=None):
    """As :func:`write_onnx`; the metadata is the extra file ``mic_det``."""
    with naming_layers(traceable, "TorchScript"):
        traced = torch.jit.trace(traceable.adapter, traceable.example, check_trace=False)
        torch.jit.save(traced, str(file), _extra_files={METADATA: json.dumps(metadata, ensure_ascii=False)})
    _check_same(traceable, torch.jit.load(str(file)), size, "TorchScript")


class TorchScriptPredictor(FilePredictor):
    """What :func:`write_torchscript` wrote, as a function of one image."""

    def __init__(self, file, score_threshold=0.5):
        extra = {METADATA: ""}
        self.model = torch.jit.load(str(file), _extra_files=extra)
        super().__init__(json.loads(extra[METADATA]), file, score_threshold)

    def run(self, image, size):
        with torch.no_grad():
            return [x.numpy() for x in self.model(torch.from_numpy(image), torch.from_numpy(size))]


def _need(name):
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ConfigError(f"--format onnx needs the package {name}: pip install onnx onnxruntime.") from e


def _onnx_runner(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(image, size):
        return [torch.from_numpy(x) for x in session.run(None, {"image": image.numpy(), "size": size.numpy()})]

    return run


def _check_same(traceable, run, size, name):
    """Compare on images of noise in several sizes: a size that the trace holds as a constant shows here.

    Raises:
        ConfigError: says what differs.
    """
    for i, (height, width) in enumerate([size] if size else TRIED):
        inputs = noise(height, width, seed=i + 1), torch.tensor([height * 2, width + 9])
        expected = traceable.adapter(*inputs)
        try:
            found = run(*inputs)
        except Exception as e:
            text = " ".join(str(e).split())[:300]
            raise ConfigError(f"{name} cannot run the exported model on {width} x {height} pixels: {text}") from e
        result = compare(_predictions(traceable, expected), _predictions(traceable, found))
        if not result.equal:
            raise ConfigError(
                f"{name} differs from PyTorch on an image of {width} x {height} pixels, so the model is not written: "
                f"{result}."
            )


def _predictions(traceable, tensors):
    arrays = {name: x.detach().numpy() for name, x in zip(traceable.outputs, tensors)}
    found = {"label_map": arrays["label_map"]} if "label_map" in arrays else {}
    if "boxes" in arrays:
        found["instances"] = Detections(arrays["boxes"], arrays["scores"], arrays["classes"])
    return found
