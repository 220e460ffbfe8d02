"""Whose weights a file holds, what they are called here, and whether they fit."""

import logging
import re

import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from detectron2.modeling.backbone.vit import ViT
from tabulate import tabulate

from ..config.label_kinds import box_section
from ..errors import CheckpointError
from ..modeling.encoder import innermost
from ..modeling.mit import MixTransformer, segformer_names
from ..modeling.stages import IMAGENET_MEAN, IMAGENET_STD, Stages
from ..modeling.torchvision_vit import TorchvisionViT
from ..modeling.vit_weights import vit_names

logger = logging.getLogger(__name__)

# The teacher's and the student's prefix: MIC's, and those of other frameworks on Detectron2
PAIRS = (("teacher.", "student."), ("modelTeacher.", "modelStudent."))
# What wrappers put before every name: DistributedDataParallel, torch.compile, other trainers
WRAPPERS = ("module.", "_orig_mod.", "model.")
# Layers whose first dimension counts classes
PREDICTORS = {
    r"(roi_heads\.box_predictor)\.(\d+\.)?(cls_score|bbox_pred)\.": "MODEL.ROI_HEADS.NUM_CLASSES",
    r"(roi_heads\.mask_head\.predictor)\.": "MODEL.ROI_HEADS.NUM_CLASSES",
    r"(sem_seg_head\.(head\.|scale_attention\.)?predictor)\.": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    r"(classifier)\.": "MODEL.IMAGE_CLASSIFIER.NUM_CLASSES",
    r"(head\.cls_score)\.": "MODEL.{}.NUM_CLASSES",  # RetinaNet or FCOS
}
# Set when a model is built, or without meaning for its predictions
OPTIONAL = re.compile(r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std|cell_anchors\.\d+)$")
# What no file of ImageNet weights has: relative positions begin with 0, norms of a pyramid's input with 1
ADDED = re.compile(r"\.(rel_pos_[hw]$|output_norms\.)")


def split_parts(checkpoint):
    """Part a checkpoint's weights into those of its teacher and of its student.

    Args:
        checkpoint (dict): ``model``: names -> tensors.

    Returns:
        (dict[str, dict], dict): "teacher" and/or "student", or "" for those of a plain detector; and the rest.
    """
    state = unwrapped(checkpoint["model"])
    for pair in PAIRS:
        parts = {
            part: unwrapped({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
            for part, prefix in zip(("teacher", "student"), pair)
        }
        parts = {part: found for part, found in parts.items() if found}
        if parts:
            return parts, {k: v for k, v in state.items() if not k.startswith(pair)}
    ema = checkpoint.get("ema")  # the average of frameworks that keep it beside the model
    if isinstance(ema, dict) and ema and all(isinstance(v, torch.Tensor) for v in ema.values()):
        return {"teacher": unwrapped(ema), "student": state}, {}
    return {"": state}, {}


def unwrapped(state):
    """A state dict without prefixes that all of its keys have."""
    for prefix in WRAPPERS:
        if state and all(k.startswith(prefix) for k in state):
            return unwrapped({k[len(prefix) :]: v for k, v in state.items()})
    return state


def select_weights(parts, prefer, path):
    """The weights for one detector: the preferred of teacher and student, or the one that there is."""
    part = prefer if prefer in parts else next(iter(parts))
    if part:
        other = "" if len(parts) == 1 else " (MODEL.MIC.WEIGHTS_FROM)"
        logger.info("%s has %s: its %s is taken%s.", path, " and ".join(sorted(parts)), part, other)
    return parts[part]


# ------------------------------------------------------------------------------------------- names


def rename_keys(state, detector, path, heuristics=False, author=""):
    """Call tensors what they are called in ``detector``.

    Args:
        state (dict): names -> tensors, of the detector itself, of a zoo's, of a classifier, of a MiT or of a plain ViT.
        heuristics (bool): Detectron2 is to match names by their endings.
        author (str): of a zoo's file; "Caffe2" has names of its own.

    Returns:
        dict: names -> tensors; shapes may still differ, and names may be missing or unknown.
    """
    state = _for_two_scales(state, detector)
    where, bottom_up = innermost(detector.backbone)
    prefixed = any(k.startswith(("backbone.", "proposal_generator.", "roi_heads.")) for k in state)
    if isinstance(bottom_up, (Stages, TorchvisionViT)) and not prefixed:
        wanted = bottom_up.body.state_dict().keys()
        warn_of_preprocessing(detector, path, bottom_up.library, bottom_up.pixel_mean, bottom_up.pixel_std)
        return {f"{where}body.{k}": v for k, v in state.items() if k in wanted}
    if isinstance(bottom_up, MixTransformer) and not any(k.startswith(where) for k in state):
        warn_of_preprocessing(detector, path, "SegFormer")
        return {f"{where}{k}": v for k, v in segformer_names(state).items()}
    if isinstance(bottom_up, ViT) and not any(k.startswith(where) for k in state):
        warn_of_preprocessing(detector, path, "a plain ViT")
        return {f"{where}{k}": v for k, v in vit_names(state, bottom_up, path).items()}
    if isinstance(bottom_up, ResNet) and "layer1.0.conv1.weight" in state:
        state, heuristics = resnet_names(state), True
        warn_of_preprocessing(detector, path)
    return _by_endings(state, detector, path, author) if heuristics else state


def _for_two_scales(state, detector):
    """A segmentation model of one scale, for an HRDA around the same backbone and head; anything else as it is."""
    head = "sem_seg_head.head."
    two_scales = hasattr(getattr(detector, "sem_seg_head", None), "scale_attention")
    one_scale = any(k.startswith("sem_seg_head.") for k in state) and not any(k.startswith(head) for k in state)
    if not (two_scales and one_scale):
        return state
    renamed = {}
    for k, v in state.items():
        part, _, rest = k.partition(".")
        renamed[{"backbone": "backbone.bottom_up.", "sem_seg_head": head}.get(part, f"{part}.") + rest] = v
    return renamed


def resnet_names(state):
    """A torchvision ResNet's tensors under the names of Detectron2's ResNet; its classifier is left out."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            parts = ["stem", "conv1", *(["norm"] if parts[0] == "bn1" else []), *parts[1:]]
        elif parts[0].startswith("layer"):
            parts[0] = f"res{int(parts[0][len('layer') :]) + 1}"
            if parts[2] == "downsample":
                parts[2:4] = ["shortcut"] if parts[3] == "0" else ["shortcut", "norm"]
            elif parts[2].startswith("bn"):
                parts[2:3] = [f"conv{parts[2][len('bn') :]}", "norm"]
        else:
            continue
        renamed[".".join(parts)] = value
    return renamed


def _by_endings(state, detector, path, author):
    own = detector.state_dict()
    try:
        found = align_and_update_state_dicts(own, state, c2_conversion=author == "Caffe2")
    except (ValueError, AssertionError, LookupError, TypeError, RuntimeError) as e:
        raise CheckpointError(f"{path}: its names cannot be matched with the model's ({e}).") from e
    # Detectron2 leaves tensors of another shape under the file's name: our table shall have them too
    for name in [k for k in found if k not in own]:
        for key in own:
            if key.endswith(f".{name}") and key not in found:
                found[key] = found[name]
    return found


def warn_of_preprocessing(detector, path, origin="torchvision", mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """Warn where a detector sees images otherwise than its backbone's classifier did, or strides elsewhere."""
    # a SemanticSegmentor does not know the order of its channels
    advice = [] if getattr(detector, "input_format", None) in (None, "RGB") else ["INPUT.FORMAT RGB"]
    for key, own, wanted in (
        ("MEAN", detector.pixel_mean, mean),
        ("STD", detector.pixel_std, std),
    ):
        if not torch.allclose(own.flatten().cpu(), torch.tensor(wanted), atol=0.5):
            advice.append(f"MODEL.PIXEL_{key} {[round(x, 3) for x in wanted]}")
    blocks = [m for m in detector.backbone.modules() if isinstance(m, BottleneckBlock)]
    if any(b.conv1.stride != (1, 1) for b in blocks):
        advice.append("MODEL.RESNETS.STRIDE_IN_1X1 False")
    if advice:
        logger.warning("%s is %s's, and was trained with other settings. Use %s.", path, origin, ", ".join(advice))


# ------------------------------------------------------------------------------------------ shapes


def match_shapes(state, detector, path, least, complete):
    """The tensors of ``state`` that have the shapes of ``detector``'s; what does not fit is reported in one table.

    Args:
        least (float): share of the backbone's tensors that must fit, in [0, 1]; 0 = anything goes.
        complete (bool): the detector is to predict, not to be trained: nothing may be missing.

    Raises:
        CheckpointError: where too little of the backbone fits, or anything else does not, except
            predictors of another number of classes; where something is missing from a complete detector.
    """
    own = detector.state_dict()
    # counters that FrozenBatchNorm lacks are nothing to tell of
    state = {k: v for k, v in state.items() if k in own or not k.endswith("num_batches_tracked")}
    wrong = {k: v for k, v in state.items() if k in own and v.shape != own[k].shape}
    fits = {k: v for k, v in state.items() if k not in wrong}
    if wrong:
        rows = [(k, str(tuple(v.shape)), str(tuple(own[k].shape))) for k, v in wrong.items()]
        table = tabulate(rows, headers=("of another shape", "in the file", "in the model"), tablefmt="simple")
        logger.warning("%s: %d tensors do not fit.\n%s", path, len(wrong), table)
    _check_backbone(fits, own, innermost(detector.backbone)[0], path, least)
    section = box_section(type(detector))
    classes = {k: _class_layer(k, v, own[k], section) for k, v in wrong.items()}
    others = [k for k in wrong if not classes[k] and not k.startswith("backbone.bottom_up.")]
    if others and least:
        raise CheckpointError(
            f"{path} was made with other settings of the model: {len(others)} tensors have another shape than "
            f"here, such as {others[0]} ({tuple(state[others[0]].shape)}, here {tuple(own[others[0]].shape)}). Use "
            "the settings that it was trained with (MODEL.BACKBONE.MIN_MATCHED_KEYS 0 takes what fits)."
        )
    for layer, key in sorted({v for v in classes.values() if v}):
        if complete and least:
            raise CheckpointError(f"{path} has another number of classes than {key} says: {layer} does not fit.")
        text = "%s has another number of classes (%s): the weights of %s are drawn at random."
        logger.warning(text, path, key, layer)
    missing = [k for k in own if k not in fits and not OPTIONAL.search(k)]
    if complete and least and missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} of the model's {len(own)} tensors, such as {missing[0]}: it would predict "
            "at random there. Is this the checkpoint of a trained model, and the config that it was trained with?"
        )
    return fits


def _class_layer(name, found, own, section):
    """(layer, config key) where two shapes differ in the number of classes alone; None elsewhere."""
    if found.shape[1:] != own.shape[1:]:
        return None
    matches = ((re.match(pattern, name), key) for pattern, key in PREDICTORS.items())
    return next(((match[1], key.format(section)) for match, key in matches if match), None)


def _check_backbone(fits, own, where, path, least):
    """Stop where too few of the backbone's tensors are there."""
    own = {k: v for k, v in own.items() if k.startswith("backbone.") and not k.endswith("num_batches_tracked")}
    # ImageNet weights have no FPN: what they must fill is the bottom-up part
    bottom_up = {k: v for k, v in own.items() if k.startswith(where) and not ADDED.search(k)}
    missing = [k for k in bottom_up if k not in fits]
    matched = len(bottom_up) - len(missing)
    share = matched / max(len(bottom_up), 1)
    if share < least:
        raise CheckpointError(
            f"{path} fills {matched} of {len(bottom_up)} tensors of the backbone ({share:.0%}; "
            f"MODEL.BACKBONE.MIN_MATCHED_KEYS asks for {least:.0%}). The first that is missing or has another "
            f"shape: {missing[0]}. Do MODEL.WEIGHTS and MODEL.BACKBONE belong together?"
        )
    logger.info("%s fills %d of the backbone's %d tensors.", path, matched, len(bottom_up))
