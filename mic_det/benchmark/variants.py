"""The steps that are compared: Detectron2's plain step, teacher inference, and MIC with and without more."""

import itertools
import os
from dataclasses import dataclass
from typing import Callable

import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from ..checkpoint.checkpointer import MICCheckpointer
from ..config import is_mic, student_architecture, validate_mic_config
from ..config.label_kinds import weights_regions
from ..engine.optimizer import build_fused_optimizer
from ..engine.train_loop import AccumulatingTrainer
from ..errors import ConfigError
from ..modeling import MIC

# what each is, in the words of the printed table
TITLES = {
    "plain": "(a) plain step on source + target images",
    "teacher": "(b) teacher inference on target images",
    "mic": "(c) MIC step",
    "mic_sequential": "(c') MIC step, SOLVER.SEQUENTIAL_BACKWARD",
    "mic_sada": "(d) MIC + SADA step",
    "plain_seg": "(a') plain step, boxes and pixels",
    "teacher_seg": "(b') teacher inference, boxes and pixels",
    "mic_seg": "(e) MIC step, boxes and pixels",
}
# the cost of the arithmetic alone: what a step of each method cannot do without
FLOORS = {
    "mic": ("plain", "teacher"),
    "mic_sequential": ("plain", "teacher"),
    "mic_sada": ("plain", "teacher"),
    "mic_seg": ("plain_seg", "teacher_seg"),
}
PSEUDO_BOXES_PER_IMAGE = 10


@dataclass
class Variant:
    """One thing to time: ``run()`` does it once, on the next of its batches."""

    name: str
    run: Callable
    model: torch.nn.Module
    trainer: object = None

    def replaced(self, loader):
        """The same step on batches of another loader."""
        self.trainer.reset_data_loader(lambda: loader)
        return self.run


def variant_names(cfg, chosen=()):
    """Those that fit the config; ``chosen`` and what they are compared with, where some are chosen."""
    names = [n for n in TITLES if weights_regions(cfg) or n in ("plain", "teacher", "mic", "mic_sequential")]
    if not _can_be_sequential(cfg):
        names.remove("mic_sequential")
    if chosen:
        wanted = {*chosen, *(floor for name in chosen for floor in FLOORS.get(name, ()))}
        names = [n for n in names if n in wanted]
    return names


def _can_be_sequential(cfg):
    try:
        validate_mic_config(variant_config(cfg, "mic_sequential"))
    except ConfigError:
        return False
    return True


def variant_config(cfg, name):
    """The config that a variant's model is built from."""
    cfg = cfg.clone()
    cfg.defrost()
    mic, student = cfg.MODEL.MIC, student_architecture(cfg)
    if name.endswith("_seg"):
        student = "BoxPanopticFPN"
    mic.STUDENT = student
    own = cfg.MODEL.META_ARCHITECTURE if is_mic(cfg) else "MIC"  # the config's, which may be a subclass
    cfg.MODEL.META_ARCHITECTURE = own if name.startswith("mic") else student
    for part in ("IMAGE", "INSTANCE", "AGREEMENT"):
        mic.ALIGNMENT[part].ENABLED = name == "mic_sada"
    cfg.SOLVER.SEQUENTIAL_BACKWARD = name == "mic_sequential"
    mic.BURN_IN_STEPS = mic.CONSISTENCY.RAMP_UP_STEPS = 0
    return cfg


def make_variant(cfg, name, batches, loader=None):
    """Build a variant's model, optimizer and step.

    Args:
        cfg (CfgNode): the run's config; weights are ``MODEL.WEIGHTS`` where that file is there, else random.
        name (str): a key of ``TITLES``.
        batches (list[list[dict]]): taken in turn; all images have labels.
        loader (iterable): taken instead of them. Pseudo-boxes are looked for in the first of ``batches``.
    """
    loader = loader or itertools.cycle(batches)
    cfg = variant_config(cfg, name)
    torch.manual_seed(1)
    model = build_model(cfg)
    if os.path.isfile(cfg.MODEL.WEIGHTS):
        MICCheckpointer(model, min_matched_keys=cfg.MODEL.BACKBONE.MIN_MATCHED_KEYS).load(cfg.MODEL.WEIGHTS)
    if name.startswith("teacher"):
        targets = ([x for x in batch if x["domain"] == "target"] for batch in loader)
        return Variant(name, lambda: _infer(model.eval(), next(targets)), model)
    if isinstance(model, MIC) and model.task("boxes"):
        _find_pseudo_boxes(model, batches[0])
    trainer = _trainer(cfg, model.train(), loader)
    storage = EventStorage()

    def step():
        with storage:
            trainer.iter = storage.iter
            trainer.run_step()
            storage.step()

    return Variant(name, step, model, trainer)


def _trainer(cfg, model, loader):
    own = isinstance(model, MIC)
    optimizer = (build_fused_optimizer if own else build_optimizer)(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the same arithmetic, but every step of the benchmark has the same work
    amp_dtype = getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None
    if own or amp_dtype is not None:  # Detectron2's own AMP needs a GPU
        sequential = cfg.SOLVER.SEQUENTIAL_BACKWARD and own
        return AccumulatingTrainer(model, loader, optimizer, amp_dtype=amp_dtype, sequential_backward=sequential)
    return SimpleTrainer(model, loader, optimizer)


@torch.no_grad()
def _infer(model, inputs):
    if hasattr(model, "inference"):
        return model.inference(inputs, do_postprocess=False)
    return model(inputs)


def _find_pseudo_boxes(model, batch):
    """Lower the score threshold where the weights (random ones, say) leave the target without pseudo-boxes."""
    target = [x for x in batch if x["domain"] == "target"]
    task = model.task("boxes")
    found = task.detections(model.teacher.eval(), model.teacher_view(target))
    scores = torch.cat([x.scores for x in found]).sort(descending=True).values
    select = task.select
    threshold = select["score_threshold"]
    least = min(threshold) if isinstance(threshold, (tuple, list)) else threshold
    if len(scores) and scores[0] < least:
        least = float(scores[: PSEUDO_BOXES_PER_IMAGE * len(target)][-1])
        select["score_threshold"] = least
        if task.module is not None:  # thresholds that follow the teacher stay where they give as many
            task.module.bounds = (least, least)
            task.module.values.fill_(least)
