"""Detectron2's DefaultTrainer, given two domains, safe checkpoints and COCO evaluation."""

import logging
import os
import weakref
from collections.abc import Sequence
from typing import Optional

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, TrainerBase, create_ddp_model
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.solver import LRMultiplier
from detectron2.utils import comm

from ..checkpoint.checkpointer import MICCheckpointer
from ..checkpoint.class_names import state_model_classes
from ..checkpoint.reference import load_reference
from ..data.loader import TwoDomainLoader, build_mic_train_loader, build_test_loader
from ..errors import MICError, NonFiniteError
from ..evaluation.evaluators import make_evaluators
from ..evaluation.label_free.measure import label_free_results, measure_label_free
from ..evaluation.pseudo_label_quality import evaluate_pseudo_labels
from ..modeling import MIC
from ..modeling.build import build_checked_model
from ..utils.signals import StopRequest, TrainingStopped
from .gradient_clipping import build_with_clipping
from .hooks import EvalAfterSuccess, PseudoBoxPictures, undisturbed
from .keep_best import KeepBestLabelFree
from .monitor import PseudoLabelMonitor
from .non_finite import (
    CatchNonFinite,
    NonFiniteHandler,
    refuse_nonfinite,
    save_state_before,
    unwrapped,
)
from .optimizer import build_fused_optimizer, build_schedule
from .output_folder import with_output
from .resume import ExactState, RunCheckpoints
from .scaling import scale_to_world_size
from .statistics import TargetStatistics
from .trackers import make_trackers
from .train_loop import AccumulatingTrainer
from .writers import RunWriter


class MICTrainer(DefaultTrainer):
    """Trains MIC or a plain detector (source-only, oracle) from the same config keys.

    Nothing of the method is in here: the model itself keeps its teacher up to date.
    """

    def __init__(self, cfg: CfgNode, trust_checkpoint: bool = False) -> None:
        """
        Args:
            cfg (CfgNode): a config with mic_det's keys, see :func:`mic_det.get_mic_cfg`.
            trust_checkpoint (bool): run code that is in files of weights; see :class:`MICCheckpointer`.
        """
        # In place of DefaultTrainer's constructor, whose step and checkpointer are not ours to choose
        TrainerBase.__init__(self)
        cfg = scale_to_world_size(cfg, comm.get_world_size())
        state_model_classes(cfg, trust_checkpoint)
        model = self.build_model(cfg)
        load_reference(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        self._trainer = AccumulatingTrainer(
            _distributed(model),
            loader,
            optimizer,
            accumulate_steps=cfg.SOLVER.ACCUMULATE_STEPS,
            amp_dtype=getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None,
            finite=NonFiniteHandler(
                cfg.OUTPUT_DIR, cfg.SOLVER.NON_FINITE.SKIP_STEPS, cfg.SOLVER.NON_FINITE.MAX_OVERFLOWS
            ),
            sequential_backward=cfg.SOLVER.SEQUENTIAL_BACKWARD and isinstance(model, MIC),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = MICCheckpointer.from_config(
            cfg, model, cfg.OUTPUT_DIR, trust=trust_checkpoint, trainer=weakref.proxy(self)
        )
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """As Detectron2's; a MIC that is loaded but not resumed starts at step 0 (``MODEL.MIC.WEIGHTS_FROM``)."""
        super().resume_or_load(resume)
        model = self.checkpointer.model
        resumed = resume and self.checkpointer.has_checkpoint()
        if isinstance(model, MIC) and self.cfg.MODEL.WEIGHTS and not resumed:
            model.restart(self.cfg.MODEL.MIC.WEIGHTS_FROM)

    def load_state_dict(self, state_dict):
        """As Detectron2's. The learning rate is the config's for the step that comes next."""
        if not isinstance(self.scheduler, LRMultiplier):  # one of a subclass, with a state of its own
            super().load_state_dict(state_dict)
            return
        hooks = {k: v for k, v in state_dict.get("hooks", {}).items() if k != "LRScheduler"}
        super().load_state_dict({**state_dict, "hooks": hooks})
        self.scheduler.last_epoch = self.iter + 1
        if self.scheduler.last_epoch >= self.max_iter:  # no step is to come
            return
        rates = self.scheduler.get_lr()
        self.scheduler._last_lr = list(rates)
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate

    def run_step(self):
        """See Detectron2; where the numbers of a step are not finite, the state before it is saved.

        So it is where a signal comes while the step waits for data, which may never come.
        """
        try:
            super().run_step()
        except NonFiniteError as e:
            raise NonFiniteError(f"{e} {save_state_before(self)}") from None
        except TrainingStopped:
            # the others of several processes wait for this one's gradients, and cannot take part
            where = "" if comm.get_world_size() > 1 else save_state_before(self)
            logging.getLogger(__name__).warning("Stopped while waiting for images. %s", where)
            raise
        except RuntimeError as e:
            # several processes were asked to stop: one waited for images, and left in the middle of the step
            if isinstance(e, MICError) or comm.get_world_size() == 1 or not self.saver.stop.signum:
                raise
            logging.getLogger(__name__).warning("Another process stopped within this step: the step is not saved.")
            raise TrainingStopped(self.saver.stop.signum) from e

    def train(self):
        """See Detectron2; SIGTERM and Ctrl-C are handled until the last evaluation has ended."""
        try:
            return super().train()
        finally:
            self.saver.stop.remove()

    def build_hooks(self):
        """Detectron2's, with checkpoints and writers that a run can be resumed from exactly.

        Of the main process, just before what is logged is written: :class:`PseudoLabelMonitor`; with ``VIS_PERIOD``,
        pictures of the pseudo-boxes.
        """
        cfg, model, is_main = self.cfg, self.checkpointer.model, comm.is_main_process()

        judge = None

        def evaluate():
            with self.saver.stoppable():
                self._last_eval_results = self.test(without_label_free(self.cfg), self.model) or {}
                if judge is not None:
                    self._last_eval_results.update(judge.measure())
            return self._last_eval_results

        hooks = [h for h in super().build_hooks() if not isinstance(h, (PeriodicCheckpointer, PeriodicWriter))]
        hooks = [EvalAfterSuccess(cfg.TEST.EVAL_PERIOD, evaluate) if isinstance(h, EvalHook) else h for h in hooks]
        self.saver = RunCheckpoints(
            self.checkpointer, ExactState(cfg), StopRequest(), cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.CHECKPOINT_KEEP
        )
        hooks[-1:-1] = [self.saver.state, self.saver]  # before the evaluation, which may fail
        if cfg.TEST.LABEL_FREE.ENABLED:  # after the evaluation
            judge = KeepBestLabelFree(cfg, model, self.checkpointer, self.saver.stoppable)
            hooks.append(judge)
        if isinstance(model, MIC) and cfg.DATASETS.TARGET and cfg.MODEL.MIC.TEACHER.STATISTICS_IMAGES:
            hooks.append(TargetStatistics(cfg, model))  # after the start is judged
        if is_main and isinstance(model, MIC) and cfg.DATASETS.TARGET:
            hooks.append(PseudoLabelMonitor.from_config(cfg, model))
            if cfg.VIS_PERIOD > 0:
                hooks.append(PseudoBoxPictures(cfg, model))
        trackers = make_trackers(cfg)  # in all processes: one that is not installed stops them all
        return [*hooks, RunWriter(cfg.OUTPUT_DIR if is_main else None, self.max_iter, trackers=trackers)]

    def build_writers(self):
        return []  # RunWriter has them

    def before_train(self):
        super().before_train()
        if self.start_iter:  # the checkpoint was saved between two after_step hooks: run the remaining ones
            self.iter = self.storage.iter = self.start_iter - 1
            for hook in self._hooks[self._hooks.index(self.saver) + 1 :]:
                hook.after_step()

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TwoDomainLoader:
        return build_mic_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        evaluators = make_evaluators(cfg, dataset_name, folder, panoptic=True)
        return DatasetEvaluators(evaluators) if len(evaluators) > 1 else evaluators[0]

    @classmethod
    def test(
        cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Optional[Sequence[DatasetEvaluator]] = None
    ) -> dict:
        """As Detectron2's; for MIC also what ``TEST.PSEUDO_LABELS`` asks for, under ``pseudo_labels``.

        With ``TEST.LABEL_FREE``, ``label_free`` has what the main process finds without labels.
        ``MODEL.MIC.EVALUATE both`` adds the student's results under ``student``. A training goes on with the
        random numbers that it would have without the evaluation.
        """
        mic = unwrapped(model)
        with undisturbed(mic), with_output(cfg) as cfg:
            refuse_nonfinite(mic)
            results = super().test(cfg, model, evaluators)
            if cfg.TEST.LABEL_FREE.ENABLED and comm.is_main_process():
                results["label_free"] = label_free_results(measure_label_free(cfg, mic))
            if not isinstance(mic, MIC):
                return results
            if cfg.TEST.PSEUDO_LABELS.DATASET:
                quality = evaluate_pseudo_labels(cfg, mic)
                if quality:  # of the main process
                    results["pseudo_labels"] = quality
            if mic.evaluate == "both":
                student = cls._test_student(cfg, model, mic, evaluators)
                if results:
                    results["student"] = student
            return results

    @classmethod
    def _test_student(cls, cfg, model, mic, evaluators):
        cfg, mic.evaluate = cfg.clone(), "student"
        cfg.defrost()
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "student")
        try:
            return super().test(cfg, model, evaluators)
        finally:
            mic.evaluate = "both"

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """
        Raises:
            ConfigError: where Detectron2 cannot build a model of these settings.
        """
        return build_checked_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_with_clipping(build_fused_optimizer, cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return build_schedule(cfg, optimizer)


def without_label_free(cfg):
    """The config of the evaluations of a training, in which :class:`KeepBestLabelFree` measures."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.LABEL_FREE.ENABLED = False
    return cfg


def _distributed(model):
    """The model in a ``DistributedDataParallel`` where there are several processes, else the model itself."""
    if comm.get_world_size() == 1:
        return model
    # Detectron2 names this process's GPU to DistributedDataParallel, which a model on the CPU must not have
    keys = {"device_ids": None} if next(model.parameters()).device.type == "cpu" else {}
    if isinstance(model, MIC) and not model.needs_labels:  # L_M does not train all parts, such as heads of masks
        keys["find_unused_parameters"] = True
    return create_ddp_model(CatchNonFinite(model), broadcast_buffers=False, **keys)
