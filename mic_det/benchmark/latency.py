"""Latency of prediction: PyTorch, ONNX Runtime in float32 and with int8 weights, in alternation on one CPU."""

import logging
import statistics
import tempfile
from pathlib import Path

import torch
from tabulate import tabulate

from ..checkpoint.export import single_detector
from ..data.pixels import read_rgb
from ..deploy.compare import compare
from ..deploy.files import OPSET, describe, write_onnx
from ..deploy.onnx_predictor import OnnxPredictor
from ..deploy.trace import Traceable, threshold_facts
from ..inference.detections import Detections
from ..inference.media import find_images
from ..inference.predictor import Predictor
from .timing import alternate

TORCH, FLOAT, INT8 = "PyTorch", "ONNX Runtime, float32", "ONNX Runtime, int8 weights of linear layers"
NEAR = {"box": 2.0, "score": 0.05}  # allowed differences of a near detection: pixels, score


def measure_latency(cfg, folder, repeats, max_images=20):
    """Time whole predictions, from the decoded image to boxes in its pixels.

    Args:
        cfg (CfgNode): of a trained model, on the CPU.
        folder (path): images.
        repeats (int): rounds on the first image.

    Returns:
        dict: ``median_ms`` and ``ratio_to_torch`` by name; ``agreement``: of PyTorch's detections on all images, the
            share that the others have too, exactly (0.1 pixel and a score of 1e-3) and nearly (``NEAR``).
    """
    least = threshold_facts(cfg)[0]
    predictor = Predictor(cfg, least)
    detector = single_detector(predictor.model, cfg.MODEL.MIC.EVALUATE)
    images = [read_rgb(s.path) for s in find_images(folder, "--latency")[:max_images]]
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as place:
        files = Path(place, "float.onnx"), Path(place, "int8.onnx")
        metadata = describe(cfg, predictor.named_classes, None, OPSET)
        write_onnx(Traceable.of(cfg, detector), metadata, files[0])
        _quantize(*files)
        runners = {TORCH: lambda rgb: _arrays(predictor(rgb))}
        runners.update({name: OnnxPredictor(file, least, threads) for name, file in zip((FLOAT, INT8), files)})
        megabytes = {name: file.stat().st_size / 1e6 for name, file in zip((FLOAT, INT8), files)}
        seconds = alternate({name: lambda run=run: run(images[0]) for name, run in runners.items()}, repeats)
        agreement = {name: _agreement(runners[TORCH], runners[name], images) for name in (FLOAT, INT8)}
    return {
        "image_size": list(images[0].shape[:2]),
        "images": len(images),
        "seconds": seconds,
        "median_ms": {name: 1000 * statistics.median(s) for name, s in seconds.items()},
        "ratio_to_torch": {
            name: statistics.median(x / y for x, y in zip(s, seconds[TORCH])) for name, s in seconds.items()
        },
        "agreement": agreement,
        "megabytes": megabytes,
    }


def _arrays(found):
    make = {"instances": Detections.of_instances, "label_map": lambda x: x.numpy()}
    return {kind: make[kind](x) for kind, x in found.items()}


def _quantize(source, target):
    """Store the weights of linear layers as int8. Convolutions stay: ONNX Runtime's int8 convolutions are slow."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # the package advises the same for each layer
    try:
        quantize_dynamic(source, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    finally:
        logging.root.setLevel(level)


def _agreement(first, second, images):
    """{"exact": share, "near": share, "detections": count, "pixels": least share of equal labels}."""
    count, found, pixels = 0, {"exact": 0, "near": 0}, 1.0
    for rgb in images:
        a, b = first(rgb), second(rgb)
        for name, tolerance in (("exact", {}), ("near", NEAR)):
            result = compare(a, b, **tolerance)
            found[name] += result.count - len(result.only_first)
        count, pixels = count + result.count, min(pixels, result.pixels)
    return {**{name: n / count if count else 1.0 for name, n in found.items()}, "detections": count, "pixels": pixels}


def as_table(latency):
    """The printed table."""
    rows = []
    for name, ms in latency["median_ms"].items():
        same, size = latency["agreement"].get(name), latency["megabytes"].get(name)
        row = [name, f"{ms:.1f}", f"{latency['ratio_to_torch'][name]:.2f}"]
        row += [f"{100 * same['exact']:.1f}", f"{100 * same['near']:.1f}", f"{size:.1f}"] if same else ["", "", ""]
        rows.append(row)
    height, width = latency["image_size"]
    head = ["one image", "ms (median)", "x PyTorch", "same %", "nearly %", "file MB"]
    count = latency["agreement"][FLOAT]["detections"]
    return (
        f"image of {height} x {width} pixels, from decoded pixels to boxes; {count} detections of "
        f"{latency['images']} images\n" + tabulate(rows, head, disable_numparse=True)
    )
