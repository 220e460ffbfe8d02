"""A teacher or student alone, as a checkpoint and a config of plain Detectron2."""

import copy
import os
import re

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from ..config import flat_keys, student_architecture, value_of
from ..errors import ConfigError
from ..modeling import MIC
from ..modeling.box_panoptic_fpn import BoxPanopticFPN
from ..modeling.torchvision_backbone import TorchvisionStages
from ..utils.outputs import Outputs
from .formats import write_weights
from .matching import resnet_names

# torchvision's name -> keys of Detectron2's ResNet
BASIC = {"RES2_OUT_CHANNELS": 64}
RESNETS = {
    "resnet18": {"DEPTH": 18, **BASIC},
    "resnet34": {"DEPTH": 34, **BASIC},
    "resnet50": {"DEPTH": 50},
    "resnet101": {"DEPTH": 101},
    "resnet152": {"DEPTH": 152},
    "resnext50_32x4d": {"DEPTH": 50, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4},
    "resnext101_32x8d": {"DEPTH": 101, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 8},
    "wide_resnet50_2": {"DEPTH": 50, "WIDTH_PER_GROUP": 128},
    "wide_resnet101_2": {"DEPTH": 101, "WIDTH_PER_GROUP": 128},
}
BODY = "backbone.bottom_up.body."


def single_detector(model, part):
    """The teacher or the student of MIC; a plain detector itself."""
    return getattr(model, part) if isinstance(model, MIC) else model


def plain_configs(cfg, detector):
    """Configs of plain Detectron2 that build what ``detector`` is.

    Args:
        cfg (CfgNode): with mic_det's keys.

    Returns:
        list[(str, CfgNode)]: a suffix for the file's name, and a config for ``get_cfg()`` alone. There are two
            where plain Detectron2 has no model with both outputs: boxes, and "_sem_seg".

    Raises:
        ConfigError: where plain Detectron2 lacks a part of the model; names it.
    """
    architecture = student_architecture(cfg)
    if not (isinstance(detector, BoxPanopticFPN) or type(detector).__module__.startswith("detectron2.")):
        raise ConfigError(
            f"{architecture} cannot be exported: plain Detectron2 builds no {architecture} from a config file, so this "
            "model runs with mic_det alone (tools/predict.py)."
        )
    body = getattr(detector.backbone, "bottom_up", None)
    _check_parts(cfg, detector, body)
    plain = get_cfg()
    plain.merge_from_list([x for k in flat_keys(plain) for x in (k, copy.deepcopy(value_of(cfg, k)))])
    plain.MODEL.META_ARCHITECTURE = architecture
    plain.MODEL.WEIGHTS, plain.OUTPUT_DIR = "", get_cfg().OUTPUT_DIR
    if isinstance(body, TorchvisionStages):
        _use_own_resnet(plain, cfg.MODEL.TORCHVISION)
    if not isinstance(detector, BoxPanopticFPN):
        return [("", plain)]
    pixels = plain.clone()
    plain.MODEL.META_ARCHITECTURE, pixels.MODEL.META_ARCHITECTURE = "GeneralizedRCNN", "SemanticSegmentor"
    return [("", plain), ("_sem_seg", pixels)]


def _check_parts(cfg, detector, body):
    """Stop where a backbone or a head is mic_det's own; an FPN on a classifier of torchvision may be another's too."""
    parts = [("BACKBONE", detector.backbone), ("SEM_SEG_HEAD", getattr(detector, "sem_seg_head", None))]
    if not isinstance(body, TorchvisionStages):
        parts.append(("BACKBONE", body))
    for section, part in parts:
        if type(part).__module__.startswith("mic_det."):
            raise ConfigError(
                f"MODEL.{section}.NAME is {cfg.MODEL[section].NAME}: plain Detectron2 has no such part, so this model "
                "runs with mic_det alone (tools/predict.py)."
            )


def _use_own_resnet(plain, torchvision):
    if torchvision.NAME not in RESNETS:
        raise ConfigError(
            f"MODEL.TORCHVISION.NAME is {torchvision.NAME}: plain Detectron2 has no such backbone, so this model "
            f"runs with mic_det alone (tools/predict.py). Exported can be {', '.join(RESNETS)}, and Detectron2's own."
        )
    resnet = plain.MODEL.RESNETS
    resnet.STEM_OUT_CHANNELS, resnet.RES2_OUT_CHANNELS = 64, 256
    for key, value in RESNETS[torchvision.NAME].items():
        resnet[key] = value
    resnet.NORM, resnet.STRIDE_IN_1X1 = torchvision.NORM, False
    resnet.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    plain.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"


def plain_weights(detector):
    """The detector's state dict under plain Detectron2's names."""
    state = detector.state_dict()
    body = {k[len(BODY) :]: v for k, v in state.items() if k.startswith(BODY)}
    state = {k: v for k, v in state.items() if not k.startswith(BODY)}
    return {**state, **{f"backbone.bottom_up.{k}": v for k, v in resnet_names(body).items()}}


def export(cfg, model, part, file, class_names=(), inputs=(), overwrite=False):
    """Write one detector's weights, and a config beside them for each model that plain Detectron2 needs.

    Every config is built again, and must predict as the detector does before anything is written.

    Args:
        cfg (CfgNode): the model's, with mic_det's keys.
        model (nn.Module): MIC or a plain detector, with its weights.
        part (str): "teacher" or "student".
        file (str): path that ends with .pth or .safetensors.
        class_names (sequence of str): written in the config's head.
        inputs (sequence of path), overwrite (bool): see :class:`~mic_det.utils.outputs.Outputs`.

    Returns:
        list[str]: the configs' paths.

    Raises:
        ConfigError: where plain Detectron2 cannot build the model.
        CheckpointError, DataError: where files cannot be written, or are in the way.
    """
    detector = single_detector(model, part).eval()
    state = plain_weights(detector)
    configs = plain_configs(cfg, detector)
    weights = os.path.basename(file)
    names = [re.sub(r"\.\w+$", f"{suffix}.yaml", weights) for suffix, _ in configs]
    outputs = Outputs(os.path.dirname(file) or ".", "export", inputs, overwrite)
    outputs.check([weights, *names])
    for _, plain in configs:
        _check_same(plain, detector, state)
    with outputs.writing(weights) as temporary:
        write_weights(state, temporary)
    for name, (_, plain) in zip(names, configs):
        plain.MODEL.WEIGHTS = file if file.endswith(".pth") else ""
        outputs.write_text(name, _head(file, class_names) + plain.dump())
    return [os.path.join(os.path.dirname(file), name) for name in names]


def _head(file, class_names):
    lines = ["A model of plain Detectron2: get_cfg(), merge_from_file, build_model."]
    if file.endswith(".pth"):
        lines.append("DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS) loads its weights.")
    else:
        lines.append(f"model.load_state_dict(safetensors.torch.load_file({os.path.basename(file)!r}), strict=False)")
        lines.append("loads its weights, since DetectionCheckpointer does not read safetensors.")
    if class_names:
        lines.append(f"Classes: {', '.join(class_names)}")
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)


@torch.no_grad()
def _check_same(plain, detector, state):
    """Build the plain model, and stop where it has other weights or predictions."""
    model = build_model(plain).eval()
    own = model.state_dict()
    wrong = [k for k in own if k not in state or state[k].shape != own[k].shape]
    if wrong:
        raise ConfigError(f"plain Detectron2 builds another model of these settings: {wrong[0]} differs.")
    model.load_state_dict(state, strict=False)
    generator = torch.Generator().manual_seed(0)
    height, width = 96, 128
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    inputs = [{"image": image, "height": height, "width": width}]
    expected, found = detector(inputs)[0], model(inputs)[0]
    same = True
    if "instances" in found:
        a, b = expected["instances"], found["instances"]
        same &= len(a) == len(b) and torch.allclose(a.scores, b.scores, atol=1e-4)
        same &= len(a) == len(b) and torch.allclose(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=0.05)
    if "sem_seg" in found:
        same &= torch.allclose(expected["sem_seg"], found["sem_seg"], atol=1e-3)
    if not same:
        raise ConfigError("plain Detectron2's model predicts something else than this one: it cannot be exported.")
