"""A small run of MIC whose steps depend on everything that a checkpoint has to hold, for tests of resuming it."""

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng
from PIL import Image

from helpers.data import CLASSES, COLORS, HEIGHT, WIDTH, load, tiny_config, write_coco, write_image
from mic_det.engine.trainer import MICTrainer

CLOCK = {"time", "data_time", "rank_data_time", "eta_seconds"}  # of metrics, what tells of the machine alone

# all parts of the method that draw random numbers or count steps
MIC = {
    "MODEL__META_ARCHITECTURE": "MIC",
    "MODEL__MIC__PSEUDO_BOXES": {
        "SCORE_THRESHOLD": 0.05, "ADAPT": "class_shares", "ADAPT_BOUNDS": [0.05, 0.9], "ADAPT_MOMENTUM": 0.9,
    },
    "MODEL__MIC__MASK": {"BLOCK_SIZE": 16, "PROB": 0.5},
    "MODEL__MIC__STRONG_AUG": {"GRAYSCALE_PROB": 0.3, "JITTER_STRENGTHS": [0.4, 0.4, 0.4, 0.1]},
    "MODEL__MIC__BURN_IN_STEPS": 1,
    "MODEL__MIC__CONSISTENCY": {"RAMP_UP_STEPS": 4},
    "MODEL__MIC__ALIGNMENT": {
        "SCHEDULE": "dann", "IMAGE": {"ENABLED": True, "CHANNELS": 8}, "INSTANCE": {"ENABLED": True, "FC_DIM": 8},
        "AGREEMENT": {"ENABLED": True},
    },
    "DATASETS__TARGET": ["fog"],
    "SOLVER__ACCUMULATE_STEPS": 2,
    "SOLVER__WARMUP_ITERS": 4,
    "SOLVER__LR_SCHEDULER_NAME": "WarmupCosineLR",
}  # fmt: skip

# the same for boxes, instance masks and label maps
PANOPTIC = {
    **MIC,
    "MODEL__MIC__STUDENT": "BoxPanopticFPN",
    "MODEL__MIC__EVALUATE": "both",
    "SOLVER__BASE_LR": 1e-4,
    "MODEL__MASK_ON": True,
    "INPUT__MASK_FORMAT": "bitmask",
    "MODEL__ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 8, "POOLER_RESOLUTION": 3},
    "MODEL__SEM_SEG_HEAD": {"NUM_CLASSES": 4, "CONVS_DIM": 8, "NORM": "", "IN_FEATURES": ["p2", "p3", "p4", "p5"]},
}  # fmt: skip


def write_mixed_domains(root, count=7):
    """Wide and tall images of both domains: a labelled set ``day`` and a folder ``fog``, whose sizes nobody tells.

    The labels of ``day`` are boxes with masks, and label maps in ``day_maps``.
    """
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(count):
        width, height = (WIDTH, HEIGHT) if i % 3 else (HEIGHT, WIDTH)
        picture = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
        c, x, y = i % len(CLASSES), int(rng.integers(2, 30)), int(rng.integers(2, 30))
        picture[y : y + 26, x : x + 26] = COLORS[c]
        images.append((f"{i}.png", width, height))
        boxes.append((i, c, (x, y, 26, 26)))
        write_image(Path(root) / "day" / f"{i}.png", picture)
        write_image(Path(root) / "fog" / f"{i}.png", (picture * 0.6 + 90).astype(np.uint8))
        labels = np.zeros(picture.shape[:2], np.uint8)
        labels[y : y + 26, x : x + 26] = 1 + c
        (Path(root) / "day_maps").mkdir(exist_ok=True)
        Image.fromarray(labels).save(Path(root) / "day_maps" / f"{i}.png")
    content = write_coco(Path(root) / "day.json", images, boxes)
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (Path(root) / "day.json").write_text(json.dumps(content), encoding="utf-8")


def run_config(root, output, **keys):
    """A config dict of 8 steps on :func:`write_mixed_domains` below ``root``."""
    day = {"JSON": str(Path(root) / "day.json"), "IMAGES": str(Path(root) / "day")}
    if "MODEL__SEM_SEG_HEAD" in keys:
        day.update(SEM_SEG=str(Path(root) / "day_maps"), SEM_SEG_CLASSES=["ground", *CLASSES])
    sets = {"day": day, "fog": {"IMAGES": str(Path(root) / "fog")}}
    # narrow: saved and loaded many times
    levels = ["res2", "res3", "res4", "res5"]
    resnet = {"DEPTH": 50, "STEM_OUT_CHANNELS": 4, "WIDTH_PER_GROUP": 4, "RES2_OUT_CHANNELS": 8, "NORM": "FrozenBN"}
    small = {
        "MODEL__RESNETS": {**resnet, "OUT_FEATURES": levels},
        "MODEL__FPN": {"IN_FEATURES": levels, "OUT_CHANNELS": 8},
        "MODEL__ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 16, "POOLER_RESOLUTION": 3},
    }
    defaults = dict(
        DATASETS__CUSTOM=sets, DATASETS__TRAIN=["day"], DATASETS__TEST=[], INPUT__MIN_SIZE_TRAIN=[48, 64],
        SOLVER__MAX_ITER=8, SOLVER__BASE_LR=0.01, SOLVER__CHECKPOINT_PERIOD=1000,
    )  # fmt: skip
    return tiny_config(root, output, **{**small, **defaults, **keys})


def make_trainer(root, output, resume=False, **keys):
    """As tools/train_net.py makes one, without logging."""
    Path(output).mkdir(exist_ok=True)
    cfg = load(output, run_config(root, output, **keys))
    seed_all_rng(cfg.SEED)
    trainer = MICTrainer(cfg)
    trainer.resume_or_load(resume)
    return trainer


class Killed(Exception):
    losses = None  # of each step before it, once it has left :func:`train`


class Watch(HookBase):
    """Notes each step's losses; calls ``act`` in the middle of step ``at``, when its loss is known."""

    def __init__(self, at=None, act=None):
        self.at, self.act, self.losses = at, act, {}

    def after_backward(self):
        if self.trainer.iter == self.at:
            self.act()

    def after_step(self):
        if self.trainer.iter < self.trainer.start_iter:  # the rest of the step that was saved
            return
        latest = self.trainer.storage.latest()
        self.losses[self.trainer.iter] = {k: v for k, (v, step) in latest.items() if "loss" in k or k == "lr"}


def kill():
    raise Killed


def train(root, output, at=None, act=kill, resume=False, **keys):
    """Train to the end, or until ``act`` ends it; returns each step's losses."""
    trainer, watch = make_trainer(root, output, resume, **keys), Watch(at, act)
    trainer._trainer.register_hooks([watch])  # called after the backward pass
    watch.trainer = trainer
    trainer.register_hooks([watch])
    try:
        trainer.train()
    except Killed as e:
        e.losses = watch.losses
        raise
    return watch.losses


def metrics(output):
    """Rows of metrics.json without what the clock says; NaN is a text, which equals itself."""
    rows = [json.loads(x, parse_constant=str) for x in (Path(output) / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def saved(output, name="model_final.pth"):
    return torch.load(Path(output) / name, weights_only=True)


def same(a, b):
    """Whether two nested containers hold the same values, tensors bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
