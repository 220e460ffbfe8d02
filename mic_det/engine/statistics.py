"""Statistics of BatchNorm layers, re-estimated from target images before a training."""

import logging

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.mapper import DomainMapper
from .hooks import undisturbed


class TargetStatistics(HookBase):
    """Gives student and teacher the statistics of ``MODEL.MIC.TEACHER.STATISTICS_IMAGES`` target images.

    They are estimated once, before the first step of a new training, from whole images at the size of evaluation that
    are evenly spread over ``DATASETS.TARGET``. All processes use the same images. FrozenBN and GroupNorm have no such
    statistics.
    """

    def __init__(self, cfg, model):
        """
        Args:
            cfg (CfgNode): a config with mic_det's keys.
            model (MIC): not wrapped for distributed training.
        """
        self.cfg, self.model = cfg, model

    def before_train(self):
        if self.trainer.start_iter:
            return
        layers = bn_layers(self.model.teacher)
        if layers:
            with undisturbed(self.model):
                self.model.eval()
                count = reestimate(self.model, self._batches())
            logging.getLogger(__name__).info(
                "Statistics of %d BatchNorm layers were re-estimated from %d target images.", len(layers), count
            )

    def _batches(self):
        dicts = [x for name in self.cfg.DATASETS.TARGET for x in DatasetCatalog.get(name)]
        most = min(self.cfg.MODEL.MIC.TEACHER.STATISTICS_IMAGES, len(dicts))
        chosen = [dicts[i] for i in np.linspace(0, len(dicts) - 1, most).astype(int)]
        mapper, size = DomainMapper(self.cfg, is_train=False, domain="target"), self.cfg.SOLVER.IMS_PER_BATCH_TARGET
        for start in range(0, len(chosen), size):
            yield [mapper(x) for x in chosen[start : start + size]]


def bn_layers(model):
    """The BatchNorm layers of a model that have statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@torch.no_grad()
def reestimate(model, batches):
    """Set the statistics of both models of a MIC to the mean over batches of what the teacher's layers see.

    Args:
        model (MIC): in eval mode, which its layers keep.
        batches (iterable): of lists of mapped images.

    Returns:
        int: number of images.
    """
    layers, count = bn_layers(model.teacher), 0
    momenta = [m.momentum for m in layers]
    for m in layers:
        m.reset_running_stats()
        m.momentum = None  # the plain mean over all batches
        m.train()
    try:
        for batch in batches:
            model.pseudo_labels(batch)
            count += len(batch)
    finally:
        for m, momentum in zip(layers, momenta):
            m.momentum = momentum
            m.eval()
    for own, other in zip(layers, bn_layers(model.student)):
        other.running_mean.copy_(own.running_mean)
        other.running_var.copy_(own.running_var)
    return count
