"""A detector as a function of tensors that PyTorch's tracing takes, and how a failing layer is named."""

import contextlib
import copy
import io
import logging
import re
import warnings
from dataclasses import dataclass

import torch
from detectron2.export import TracingAdapter
from detectron2.modeling import PanopticFPN
from torch import nn

from ..config.label_kinds import box_keys, classes_key, label_kinds
from ..errors import ConfigError
from ..modeling.box_panoptic_fpn import side_by_side

INPUTS = ("image", "size")
OUTPUTS = {"boxes": ("boxes", "scores", "classes"), "pixels": ("label_map",)}
SIZE = (192, 256)  # of the image that is traced where no size is fixed
PATCHES = 32  # an untextured image gives few proposals: the noise of the traced one has patches of this size


@dataclass
class Traceable:
    """A detector made ready: ``adapter(image, size)`` returns the tensors named ``outputs``.

    ``image``: (H, W, 3) uint8 RGB, resized as for evaluation. ``size``: (2,) int64, its height and width
    before.
    ``boxes`` (N, 4) XYXY in pixels of ``size``, ``scores`` (N,) and ``classes`` (N,) sorted by descending score,
    ``label_map`` of that size.
    """

    adapter: TracingAdapter
    example: tuple
    outputs: tuple

    @classmethod
    def of(cls, cfg, detector, size=None):
        """
        Args:
            cfg (CfgNode): the model's.
            detector (nn.Module): a plain detector with its weights; it is left as it is.
            size ((int, int)): height and width of the traced image.
        """
        kinds = label_kinds(cfg)
        detector = copy.deepcopy(detector).cpu().float().eval()
        for part in ("mask_on", "keypoint_on"):  # boxes are what mic_det predicts
            if getattr(getattr(detector, "roi_heads", None), part, False):
                setattr(detector.roi_heads, part, False)
        reverse = cfg.INPUT.FORMAT == "BGR"

        def infer(model, image, size):
            image = image.permute(2, 0, 1)
            x = {"image": image.flip(0) if reverse else image, "height": size[0], "width": size[1]}
            found = _predict(model, [x])
            tensors = ()
            if "boxes" in kinds:
                boxes = found["instances"]
                tensors += (boxes.pred_boxes.tensor, boxes.scores, boxes.pred_classes)
            if "pixels" in kinds:
                tensors += (found["sem_seg"].argmax(dim=0),)
            return tensors

        example = noise(*(size or SIZE)), torch.tensor([240, 320])
        adapter = TracingAdapter(detector, example, infer).eval()
        return cls(adapter, example, tuple(x for kind in kinds for x in OUTPUTS[kind]))


def _predict(model, inputs):
    if isinstance(model, PanopticFPN):
        return side_by_side(inputs, *model.inference(inputs, do_postprocess=False))[0]
    return model(inputs)[0]


def noise(height, width, seed=0):
    """(height, width, 3) uint8: patches of random colours under fine noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, -(-height // PATCHES), -(-width // PATCHES)), generator=generator)
    coarse = nn.functional.interpolate(coarse, scale_factor=PATCHES)[0, :, :height, :width]
    fine = torch.rand((3, height, width), generator=generator)
    return (coarse * 200 + fine * 55).to(torch.uint8).permute(1, 2, 0).contiguous()


def threshold_facts(cfg):
    """(least score, the key that sets it, NMS threshold) of a config's boxes; (0.0, "", 0.0) where it has none."""
    if "boxes" not in label_kinds(cfg):
        return 0.0, "", 0.0
    keys, node = box_keys(cfg), classes_key(cfg).split(".")[1]
    return float(keys.SCORE_THRESH_TEST), f"MODEL.{node}.SCORE_THRESH_TEST", float(keys.NMS_THRESH_TEST)


@contextlib.contextmanager
def naming_layers(traceable, target):
    """A failure inside is a ConfigError with the name of the layer that caused it.

    Args:
        traceable (Traceable): what is exported inside.
        target (str): such as "ONNX".
    """
    root, running, handles = traceable.adapter.model, [], []
    for name, module in root.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
            handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        with quiet():
            yield
    except Exception as e:
        layer = running[-1] if running else ""
        for handle in handles:
            handle.remove()
        layer = layer or _layer_of_operator(traceable, str(e))
        where = f"the layer {layer} ({type(root.get_submodule(layer)).__name__})" if layer else type(root).__name__
        text = " ".join(str(e).split())[:300]
        raise ConfigError(f"{where} cannot be exported to {target}: {text}") from e
    finally:
        for handle in handles:
            handle.remove()


def _layer_of_operator(traceable, message):
    """The layer with the operator that an exporter's message names, by a trace of the model; "" where it names none."""
    operator = re.search(r"\b(\w+::\w+)", message)
    if operator is None:
        return ""
    with quiet():
        traced = torch.jit.trace(traceable.adapter, traceable.example, check_trace=False)
        graph = traced.inlined_graph
    for node in graph.findAllNodes(operator[1], True):
        scope = node.scopeName().rsplit("/", 1)[-1]  # __module.model.backbone.bottom_up
        layer = scope.split("__module.model", 1)[-1].lstrip(".")
        if layer:
            return layer
    return ""


@contextlib.contextmanager
def quiet():
    """Hide the exporter's remarks about Detectron2's code: users cannot change that code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
