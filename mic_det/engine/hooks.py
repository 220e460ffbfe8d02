"""Hooks of Detectron2's training loop that mic_det adds."""

import contextlib
import logging
import os

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook

from ..data.classes import known_class_names
from ..data.mapper import DomainMapper
from ..errors import DataError
from ..inference.media import write_picture
from ..modeling.terms import ClassMix
from ..utils.random_state import get_random_state, set_random_state
from ..visualization.grid import panel_grid
from ..visualization.panels import mic_panels


class PseudoBoxPictures(HookBase):
    """Draws what MIC makes of a few target images, every ``VIS_PERIOD`` steps.

    Each image has a picture of its own, whose panels fit a screen: ``OUTPUT_DIR/visuals/STEP_1.jpg``, ``STEP_2.jpg``
    and so on (STEP = optimizer steps done), and ``pseudo-boxes/1``, ``pseudo-boxes/2`` in TensorBoard. The images, and
    the patches that are hidden in them, are the same each time. Drawing does not change the training: random states
    and modules' modes are put back, and other steps cost nothing.
    """

    def __init__(self, cfg, model, num_images=3):
        """
        Args:
            cfg (CfgNode): ``VIS_PERIOD``, in optimizer steps; the images are those of ``DATASETS.TARGET``.
            model (MIC): not wrapped for distributed training. Only one process needs the hook.
            num_images (int): evenly spread over the first target set.
        """
        self.cfg, self.model, self.num_images = cfg, model, num_images
        self.period = cfg.VIS_PERIOD
        self.inputs = None  # read when they are first needed

    def after_step(self):
        step = self.trainer.iter + 1
        if step % self.period:
            return
        with undisturbed(self.model):
            pictures = [panel_grid(panels) for panels in self.draw()]
        for number, picture in enumerate(pictures, start=1):
            self.trainer.storage.put_image(f"pseudo-boxes/{number}", picture.transpose(2, 0, 1))
            try:
                file = os.path.join(self.cfg.OUTPUT_DIR, "visuals", f"{step:07d}_{number}.jpg")
                write_picture(file, picture)
            except DataError as e:  # a full disk is no reason to lose the training
                logging.getLogger(__name__).warning("No picture of step %d: %s", step, e)

    def draw(self):
        """The captioned panels of each image; see :func:`mic_panels`."""
        if self.inputs is None:
            self.inputs = self._read_inputs()
            self.sources = self._read_sources()
        self.model.update_teacher()  # now instead of at the next step's start, from the same student
        self.model.eval()
        rows = []
        for i, (x, source) in enumerate(zip(self.inputs, self.sources)):
            torch.manual_seed(i)  # colours; the mask has a generator of its own
            generator = torch.Generator().manual_seed(i)
            look = {"class_names": self.class_names, "input_format": self.cfg.INPUT.FORMAT}
            rows.append(mic_panels(self.model, x, generator=generator, source=source, **look))
        return rows

    def _read_inputs(self):
        # labels of the target, where there are any, stay unseen here too
        dicts = DatasetCatalog.get(self.cfg.DATASETS.TARGET[0])
        self.class_names = known_class_names(self.cfg)
        chosen = np.unique(np.linspace(0, len(dicts) - 1, self.num_images).astype(int))
        mapper = DomainMapper(self.cfg, is_train=False, domain="target")
        return [mapper(dicts[i]) for i in chosen]

    def _read_sources(self):
        """A source image for each target image, where the two are mixed in training (ClassMix); None elsewhere."""
        if not any(isinstance(term, ClassMix) for term in self.model.terms):
            return [None] * len(self.inputs)
        dicts = DatasetCatalog.get(self.cfg.DATASETS.TRAIN[0])
        chosen = np.linspace(0, len(dicts) - 1, len(self.inputs)).astype(int)
        mapper = DomainMapper.with_truth(self.cfg)
        return [mapper(dicts[i]) for i in chosen]


class EvalAfterSuccess(EvalHook):
    """Detectron2's also evaluates after a failure in the last iteration, where other processes may not come along."""

    def after_train(self):
        if self.trainer.iter < self.trainer.max_iter:
            self._eval_after_train = False
        super().after_train()


@contextlib.contextmanager
def undisturbed(model):
    """Put the random states of torch, NumPy and Python and the modes of all modules back afterwards."""
    modes = [(m, m.training) for m in model.modules()]
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)
        for module, mode in modes:
            module.training = mode
