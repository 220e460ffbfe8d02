"""The plan of the trainings, from the images, their number, and the machine: sizes, steps, weights and device."""

import os
import socket
from dataclasses import dataclass, replace

import numpy as np
import torch
import torchvision

from ...checkpoint.formats import read_torch
from ...errors import CheckpointError, ConfigError
from ...utils.hardware import BFLOAT16, cpu_flags

# The method: presets of the source model, and of the adaptation that starts from it.
SOURCE_PRESET = "_methods/strong_start.yaml"
ADAPT_PRESET = "_methods/mic_strong.yaml"
SOURCE_FREE_PRESET = "_methods/source_free.yaml"
SOURCE_FREE_LR = 0.1  # factor of AdamW's learning rate without source images (docs/less_data.md)

DETECTOR = "Base-RCNN-FPN-R18-small.yaml"
BACKBONES = {"cpu": "resnet18", "cuda": "resnet50"}  # torchvision's; plain Detectron2 has these too
# other classifiers of torchvision whose weights are recognised
KNOWN = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_large",
    "efficientnet_b0", "convnext_tiny",
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Limits of a plan on one kind of machine. ``steps``: least and most of a training from ImageNet weights."""

    short_side: tuple  # pixels, least and most
    batch: int  # source images per step and device; the target has the same number
    epochs: float  # passes over the source images
    steps: tuple


LIMITS = {"cpu": Limits((160, 384), 2, 5, (600, 1500)), "cuda": Limits((256, 800), 2, 12, (3000, 18000))}
ADAPT_SHARE = 0.6  # steps of the adaptation, relative to those of the source model
FROM_SCRATCH = 2.0  # factor of the steps without ImageNet weights
PATIENCE = 30.0  # seconds that a download waits for a server's answer
PUBLISHED_MASK = 32 / 800  # block size, relative to the short side


@dataclass(frozen=True)
class Machine:
    gpus: int
    cores: int
    bfloat16: bool
    name: str

    @property
    def device(self):
        return "cuda" if self.gpus else "cpu"

    @classmethod
    def found(cls, num_gpus=None):
        """
        Raises:
            ConfigError: where the machine has fewer GPUs than requested.
        """
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if num_gpus is not None and num_gpus > max(gpus, 1):
            raise ConfigError(f"--num-gpus is {num_gpus}, but this machine has {gpus} usable GPUs.")
        used = min(gpus, num_gpus or gpus)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if not used:
            return cls(0, cores, bool(cpu_flags() & BFLOAT16), f"CPU, {cores} cores")
        name = torch.cuda.get_device_name() + (f" x {used}" if used > 1 else "")
        return cls(used, cores, torch.cuda.is_bf16_supported(), name)


@dataclass(frozen=True)
class Weights:
    """ImageNet weights: torchvision's ``name`` and the value of ``MODEL.WEIGHTS``. "" = there are no weights."""

    name: str
    file: str
    told: str


def find_weights(file, device):
    """The weights of ``--weights``, or torchvision's own, which are downloaded once. Without a network: none.

    Raises:
        ConfigError, CheckpointError: where ``--weights`` cannot be used.
    """
    if file:
        return Weights(recognise_backbone(file), os.path.abspath(file), f"ImageNet weights of {file}")
    name, patience = BACKBONES[device], socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=True)
        return Weights(name, f"torchvision://{name}", f"torchvision's ImageNet weights of {name}")
    except (OSError, RuntimeError) as e:  # no network, or a damaged file
        reason = " ".join(str(e).split())[:120]
        return Weights(
            "", "", f"none: torchvision's cannot be downloaded ({reason}). A small model with GroupNorm is trained "
            f"from random weights, {FROM_SCRATCH:g} times as long, and will find fewer objects. For a better model, "
            f"download the weights of {name} elsewhere, and name the file with --weights",
        )  # fmt: skip
    finally:
        socket.setdefaulttimeout(patience)


def recognise_backbone(file):
    """The name of torchvision's classifier whose weights are in a file.

    Raises:
        ConfigError: where the file has no weights of a known classifier.
        CheckpointError: where the file cannot be read.
    """
    if not os.path.isfile(file):
        raise CheckpointError(f"--weights {file}: there is no such file.")
    state = read_torch(str(file))
    state = state.get("model", state.get("state_dict", state))
    shapes = {k: tuple(v.shape) for k, v in state.items() if isinstance(v, torch.Tensor)}
    for name in KNOWN:
        with torch.device("meta"):
            model = torchvision.models.get_model(name, weights=None)
        own = {k: tuple(v.shape) for k, v in model.state_dict().items() if "num_batches" not in k}
        body = {k: s for k, s in own.items() if not k.startswith(("fc.", "classifier."))}
        if all(shapes.get(k) == s for k, s in body.items()):
            return name
    raise ConfigError(f"--weights {file}: these are not the weights of torchvision's {', '.join(KNOWN)}.")


@dataclass(frozen=True)
class Plan:
    """Sizes are in pixels. ``steps`` are those of the source model (0 where it exists) and of the adaptation."""

    machine: Machine
    weights: Weights
    short_side: int
    long_side: int
    batch: int  # source images per step, over all devices; the target has the same number
    steps: tuple
    source_free_lr: float = 0.0  # learning rate without source images; 0 = that of the source model

    @property
    def block_size(self):
        """Patch size of the mask: it grows with the images in steps of 8. Patches below 16 pixels hide too little."""
        return int(np.clip(8 * round(self.short_side * PUBLISHED_MASK / 8), 16, 64))

    def of_model(self, cfg):
        """The plan for a source model that exists: the sizes and the batch are those of its config."""
        small = cfg.SOLVER.BASE_LR * SOURCE_FREE_LR if cfg.SOLVER.OPTIMIZER == "AdamW" else 0.0
        return replace(
            self, short_side=min(cfg.INPUT.MIN_SIZE_TRAIN), long_side=cfg.INPUT.MAX_SIZE_TRAIN,
            batch=cfg.SOLVER.IMS_PER_BATCH, source_free_lr=float(f"{small:.6g}"),
        )  # fmt: skip


def make_plan(machine, weights, source_sizes, target_sizes, num_source, steps=None, has_source_model=False):
    """
    Args:
        machine (Machine), weights (Weights)
        source_sizes, target_sizes (list[(int, int)]): width and height of images.
        num_source (int): number of labelled images.
        steps (int): steps of each training, instead of the planned number.
        has_source_model (bool): whether the source model exists, so that the adaptation alone is trained.
    """
    limits = LIMITS[machine.device]
    sizes = np.array([*source_sizes, *target_sizes], dtype=float)
    short = float(np.median(sizes.min(axis=1))) if len(sizes) else limits.short_side[1]
    short = int(np.clip(round(short), *limits.short_side))
    aspect = float(np.quantile(sizes.max(axis=1) / sizes.min(axis=1), 0.95)) if len(sizes) else 2.0
    batch = limits.batch * max(1, machine.gpus)
    if steps:
        planned = (steps, steps)
    else:
        first = limits.epochs * num_source / batch * (1 if weights.name else FROM_SCRATCH)
        least, most = (s / max(1, machine.gpus) for s in limits.steps)
        scale = 1 if weights.name else FROM_SCRATCH
        first = 50 * round(float(np.clip(first, least * scale, most * scale)) / 50)
        planned = (first, 50 * round(first * ADAPT_SHARE / 50))
    if has_source_model:
        planned = (0, planned[1])
    return Plan(machine, weights, short, round(short * min(aspect, 2.5)), batch, planned)
