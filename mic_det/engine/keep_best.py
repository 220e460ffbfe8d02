"""TEST.LABEL_FREE in a training: the start and the checkpoints are judged without labels, and the best one is kept."""

import logging
import math
import os
from dataclasses import dataclass

import numpy as np
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..checkpoint.formats import read_torch
from ..checkpoint.storage import BEST_LABEL_FREE
from ..config.roles import label_free_set
from ..data.classes import label_names
from ..evaluation.label_free.lost_classes import LOST, class_scores, least_scores, lost_classes, named
from ..evaluation.label_free.measure import judged_kind, label_free_results, measure_label_free
from ..evaluation.label_free.ranking import COMBINATION, resampled_scores
from ..modeling import MIC
from .hooks import undisturbed
from .non_finite import refuse_nonfinite

START = "label_free/start"
# of versions whose checkpoints do not tell
FIRST_COMBINATION = {"mask_agreement": 1.0, "nms_consistency": 1.0, "information": 1.0}


@dataclass
class Latest:
    """What was measured last: the iteration, the score, the scores on resampled images, the scores of each class."""

    iteration: int
    score: float
    samples: np.ndarray
    classes: np.ndarray


class KeepBestLabelFree(HookBase):
    """Keeps the weights with the highest score without labels as ``model_best_label_free.pth``.

    The start takes part: the weights that a new training begins with, if they are those of a whole model. So a training
    that makes the model worse ends with its start in this file. Weights that have lost a class of the start
    (:func:`lost_classes`) have score 0. Of equal scores, the first one stays. The scores so far are in checkpoints, so
    a resumed run ends with the file of a run without interruption.

    The hook measures at each evaluation, and every ``TEST.LABEL_FREE.PERIOD`` steps. It comes after the evaluation.
    """

    def __init__(self, cfg, model, checkpointer, stoppable):
        """
        Args:
            cfg (CfgNode): ``TEST.LABEL_FREE``.
            model (nn.Module): not wrapped for distributed training.
            checkpointer (MICCheckpointer): what writes. Only the main process measures and writes.
            stoppable (callable): a context in which a signal ends the measurement; see :class:`RunCheckpoints`.
        """
        self.cfg, self.model, self.checkpointer, self.stoppable = cfg, model, checkpointer, stoppable
        self.start, self.start_samples = None, []  # the start's score, and its scores on resampled images
        self.start_classes = None  # its scores of each class
        self.best, self.step, self.above_start = -math.inf, -1, None  # of what was trained
        self._latest = None  # what was measured last
        self._lost = False  # whether the file of the best weights was removed

    @property
    def file(self):
        """The path of the kept weights."""
        return os.path.join(self.checkpointer.save_dir, BEST_LABEL_FREE)

    def measure(self):
        """Measure the model as it is.

        Returns:
            dict: ``{"label_free": results}`` of the main process; {} in others.
        """
        if not comm.is_main_process():
            return {}
        refuse_nonfinite(self.model)
        with undisturbed(self.model):
            measured = measure_label_free(self.cfg, self.model)
        classes, samples = class_scores(measured), resampled_scores(measured)
        lost = self._lost_classes(classes, len(measured))
        results = label_free_results(measured, lost)
        if lost:
            samples = np.zeros_like(samples)
            logging.getLogger(__name__).warning(
                "The training has lost %s: the scores of that class sum to less than %.0f %% of those of the start. So "
                "these weights have score 0 without labels. If the target images show nothing of that kind, the start "
                "was wrong, not these weights: compare pictures.", " and ".join(lost), 100 * LOST,
            )  # fmt: skip
        self._latest = Latest(self.trainer.iter, results["score"], samples, classes)
        return {"label_free": results}

    def _lost_classes(self, classes, num_images):
        """Names of the classes of the start that are lost; None where it is not known."""
        if self.start_classes is None:
            return None
        kind = judged_kind(self.cfg)
        lost = lost_classes(self.start_classes, classes, least_scores(kind, num_images))
        return named(lost, label_names(self.cfg, kind))

    def before_train(self):
        if not comm.is_main_process():
            return
        if self.trainer.start_iter:
            self._look_for_file()
        elif self._whole_model_was_loaded():
            self.measure()
            self.start, self.start_samples = self._latest.score, self._latest.samples.tolist()
            self.start_classes = None if self._latest.classes is None else self._latest.classes.tolist()
            self._latest = None
            self.trainer.storage.put_scalar(START, self.start, smoothing_hint=False)
            self._save(-1, self.start)

    def after_step(self):
        done, test = self.trainer.iter + 1, self.cfg.TEST
        if done >= self.trainer.max_iter:  # the last evaluation comes after the training
            return
        evaluated = test.EVAL_PERIOD > 0 and done % test.EVAL_PERIOD == 0
        if test.LABEL_FREE.PERIOD and done % test.LABEL_FREE.PERIOD == 0 and not evaluated:
            with self.stoppable():
                results = self.measure()
            for name, value in results.get("label_free", {}).items():
                self.trainer.storage.put_scalar(f"label_free/{name}", value, smoothing_hint=False)
        self._keep()

    def after_train(self):
        self._keep()
        if comm.is_main_process() and self.trainer.iter >= self.trainer.max_iter:
            self._report()

    def _keep(self):
        if self._latest is None or self._latest.iteration != self.trainer.iter:
            return
        score, samples = self._latest.score, self._latest.samples
        if not score > self.best:
            return
        self.best, self.step = score, min(self.trainer.iter, self.trainer.max_iter - 1)
        if self.start is not None:
            self.above_start = float(np.mean(samples > np.array(self.start_samples)))
        if self.start is None or score > self.start or self._lost:
            self._save(self.step, score)

    def _save(self, step, score):
        name = BEST_LABEL_FREE[: -len(".pth")]
        above = {} if step < 0 or self.above_start is None else {"label_free_above_start": self.above_start}
        self.checkpointer.save_weights(name, iteration=step, label_free_score=score, **above)

    def _whole_model_was_loaded(self):
        """Whether no tensor of the detectors began at random, as a new head on a pretrained backbone does."""
        parts = ("student.", "teacher.") if isinstance(self.model, MIC) else ("",)
        return bool(self.cfg.MODEL.WEIGHTS) and not any(k.startswith(parts) for k in self.checkpointer.restarted)

    def _look_for_file(self):
        """Where a resumed run has lost the file of its best weights, the best of the remaining steps is kept."""
        if not os.path.isfile(self.file) and (self.start is not None or self.step >= 0):
            logging.getLogger(__name__).warning(
                "%s, the best weights so far, is missing. The best weights of the remaining steps are kept.", self.file
            )
            self.best, self.step, self.above_start, self._lost = -math.inf, -1, None, True

    def _adopt_file(self):
        """A step that was repeated inexactly may be worse than before. Then the file still has the better weights."""
        kept = read_torch(self.file, mmap=True) if os.path.isfile(self.file) else {}
        score = kept.get("label_free_score", -math.inf)
        if score > max(self.best, -math.inf if self.start is None else self.start):
            self.best, self.step, self.above_start = score, kept["iteration"], kept.get("label_free_above_start")

    def _report(self):
        """Say which weights to ship."""
        logger = logging.getLogger(__name__)
        if self.step < 0:
            return
        self._adopt_file()
        trained = f"step {self.step + 1} (score {self.best:.3f})"
        if self.start is None:
            logger.info("Without labels, the weights after %s look best. Ship %s.", trained, self.file)
        elif self.best > self.start:
            logger.info(
                "Without labels, the weights after %s look best. The start's score is %.3f, and it is lower in %.0f %% "
                "of the resamplings of the images. Ship %s.",
                trained, self.start, 100 * self.above_start, self.file,
            )  # fmt: skip
        else:
            logger.warning(
                "Without labels, the start (score %.3f) looks better than everything that was trained. The best is "
                "that of %s, which is better than the start in %.0f %% of the resamplings of the images. The training "
                "did not help. Ship %s: it has the weights of the start.",
                self.start, trained, 100 * self.above_start, self.cfg.MODEL.WEIGHTS if self._lost else self.file,
            )  # fmt: skip

    def state_dict(self):
        return {
            "best": self.best, "step": self.step, "above_start": self.above_start, "start": self.start,
            "start_samples": self.start_samples, "start_classes": self.start_classes, "combination": COMBINATION,
            "dataset": label_free_set(self.cfg),
        }  # fmt: skip

    def load_state_dict(self, state_dict):
        dataset, other = label_free_set(self.cfg), ""
        if state_dict.get("combination", FIRST_COMBINATION) != COMBINATION:
            other = "with a version that makes the score without labels of other criteria"
        elif state_dict.get("dataset", dataset) != dataset:
            other = f"with scores on {state_dict['dataset']}, and now they are on {dataset} (TEST.LABEL_FREE.DATASET)"
        if other:
            logging.getLogger(__name__).warning(
                "This run began %s, so its scores so far do not count. %s will have the best weights of the remaining "
                "steps.", other, BEST_LABEL_FREE,
            )  # fmt: skip
            return
        # earlier versions did not judge the start
        for key in ("best", "step", "above_start", "start", "start_samples", "start_classes"):
            setattr(self, key, state_dict.get(key, getattr(self, key)))
        if self.start is not None and self.start_classes is None:
            logging.getLogger(__name__).warning(
                "This run began with a version that did not look for lost classes, so it does not find them. `mic-det "
                "select` does."
            )
