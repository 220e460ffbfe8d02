"""Everything else that a run needs to continue as if it had never been stopped, and when it is saved."""

import contextlib
import logging
import signal

from detectron2.engine import HookBase
from detectron2.engine.hooks import PreciseBN
from detectron2.utils import comm

from ..checkpoint.run_settings import (
    changed_settings,
    data_settings,
    moved_classes,
    run_settings,
)
from ..checkpoint.storage import NonFiniteState
from ..errors import CheckpointError, NonFiniteError
from ..modeling.loss_normalizer import get_normalizers, set_normalizers
from ..utils.random_state import get_random_state, set_random_state
from ..utils.signals import TrainingStopped, interruptible
from .non_finite import resume_from

ADVICE = (
    "For the same steps, restore these settings and resume again. To train with the new ones from the start, "
    "give MODEL.WEIGHTS the checkpoint and use another OUTPUT_DIR, without --resume"
)


class ExactState(HookBase):
    """Saves and puts back the random generators of all processes and how far the data were used.

    With what Detectron2 saves (model, optimizer, schedule), a resumed run takes the steps that it would have
    taken; on the CPU, bit by bit. Where that is not possible, because settings have changed, one warning
    names them.
    """

    def __init__(self, cfg):
        self.cfg = cfg
        self._own = None  # (step, the states of all processes), of the last collect()
        self._before = None  # (step, state of this process, data state) at the start of the step in progress
        self._resumed = None
        self._data = None  # fingerprints of the data, of the main process

    def before_step(self):
        self._before = self.trainer.iter, self._own_state(), self.trainer.data_loader.state_dict()

    def _own_state(self):
        """What each process has for itself: random generators, and numbers that losses are divided by."""
        return get_random_state(), get_normalizers(self.trainer.model)

    def _states(self):
        """Of this process and of the data after ``trainer.iter``, which may be the step before that in progress."""
        if self._before is not None and self._before[0] == self.trainer.iter + 1:
            return self._before[1:]
        return self._own_state(), self.trainer.data_loader.state_dict()

    def collect(self):
        """Call in all processes before one of them saves: each knows its own generators alone."""
        self._own = self.trainer.iter, comm.gather(self._states()[0])

    def state_dict(self):
        own, data = self._states()
        if self._own is None or self._own[0] != self.trainer.iter or comm.get_world_size() == 1:
            self._own = self.trainer.iter, [own]
        random, normalizers = (list(x) for x in zip(*self._own[1]))
        return {"random": random, "normalizers": normalizers, "data": data, "settings": self._settings()}

    def _settings(self):
        loader = self.trainer.data_loader
        if self._data is None:
            self._data = data_settings(self.cfg, loader) if comm.is_main_process() else {}
        return {**run_settings(self.cfg, loader), **self._data}

    def load_state_dict(self, state_dict):
        """
        Raises:
            CheckpointError: where the classes have another order.
        """
        moved = moved_classes(state_dict["settings"], run_settings(self.cfg, self.trainer.data_loader))
        if moved:
            raise CheckpointError(f"The run in {self.cfg.OUTPUT_DIR} cannot be resumed: {moved}")
        self._resumed = state_dict

    def before_train(self):
        self._settings()  # of the data that the training begins with
        if not self.trainer.start_iter:
            return
        logger, state, self._resumed = logging.getLogger(__name__), self._resumed, None
        if state is None:
            logger.warning("The checkpoint does not say how far the data were used: they are shuffled again.")
            return
        changes = changed_settings(state["settings"], self._settings())
        changes += _restarts("weights", self.trainer.checkpointer.restarted)
        changes += _restarts("momentum", self.trainer._trainer.restarted)
        if len(state["random"]) < comm.get_world_size() and not changes:
            changes = ["random numbers of the other processes: not in the checkpoint"]
        if any(isinstance(h, PreciseBN) for h in self.trainer._hooks):
            changes.append("TEST.PRECISE_BN.ENABLED: the batches that it measures start from the beginning")
        if changes:
            logger.warning("The run resumes, but not exactly as it would have continued without the stop: %s. %s.",
                           "; ".join(changes), ADVICE)  # fmt: skip
        self.trainer.data_loader.load_state_dict(state["data"])
        if comm.get_rank() < len(state["random"]):
            set_random_state(state["random"][comm.get_rank()])
            set_normalizers(self.trainer.model, state.get("normalizers", {comm.get_rank(): ()})[comm.get_rank()])


def _restarts(what, names):
    """A text about tensors that the checkpoint does not have in this shape; [] where there are none."""
    if not names:
        return []
    return [f"{what} that start from zero: {', '.join(names[:3])}" + f" and {len(names) - 3} more" * (len(names) > 3)]


class RunCheckpoints(HookBase):
    """Saves every ``period`` steps, at the end, and when a signal stops the training.

    The signals are handled from the begin of a training on; the trainer gives them back.

    Files are called as by Detectron2's PeriodicCheckpointer: ``model_STEP.pth`` (counted from 0) and
    ``model_final.pth``. All processes need this hook; the first one writes.
    """

    def __init__(self, checkpointer, state, stop, period, keep=0):
        """
        Args:
            checkpointer (CheckpointFiles): what writes.
            state (ExactState): a hook of the same trainer.
            stop (StopRequest): the signals.
            period (int): in steps.
            keep (int): numbered checkpoints that stay; 0 = all.
        """
        self.checkpointer, self.state, self.stop = checkpointer, state, stop
        self.period, self.keep, self._saved = period, keep, -1

    def before_train(self):
        if comm.is_main_process():
            self.checkpointer.remove_leftovers()
        self._saved = self.trainer.start_iter - 1  # the step of the last checkpoint
        self.stop.install()

    def after_step(self):
        step = self.trainer.iter
        at_end = step + 1 >= self.trainer.max_iter
        due = (step + 1) % self.period == 0
        signum = self.stop.agreed()
        if not (at_end or due or signum):
            return
        self.state.collect()
        if due or not at_end:
            self._save(f"model_{step:07d}", step)
        if at_end:
            self._save("model_final", step)
        self._saved = step
        if comm.is_main_process():
            self.checkpointer.remove_old(self.keep, step)
        if signum:
            comm.synchronize()  # no process leaves before all is saved
            _log_stop(signum, f"after step {step}. --resume continues from there")
            raise TrainingStopped(signum)

    def _save(self, name, step):
        """
        Raises:
            NonFiniteError: on all processes, where the step has made weights or momentum infinite or NaN.
        """
        problem = ""
        try:
            self.checkpointer.save(name, iteration=step)
        except NonFiniteState as e:
            problem = (
                f"iteration {step}: its losses and gradients are finite, but the update is not: {e}. The step is not "
                f"saved. {resume_from(self.checkpointer)} Lower SOLVER.BASE_LR, or use SOLVER.CLIP_GRADIENTS."
            )
        problem = comm.all_gather(problem)[0]
        if problem:
            raise NonFiniteError(problem)

    @contextlib.contextmanager
    def stoppable(self):
        """For an evaluation: a signal ends it at once, and a resumed run repeats it. All processes must enter."""
        self.state.collect()  # now: a process that a signal takes out of it cannot ask the others any more
        random = get_random_state()
        try:
            with interruptible():
                yield
        except TrainingStopped as e:
            set_random_state(random)
            step = self.trainer.iter
            if step < self.trainer.max_iter and step != self._saved:
                try:
                    self.checkpointer.save(f"model_{step:07d}", iteration=step)
                except NonFiniteState as problem:
                    logging.getLogger(__name__).warning("Step %d is not saved: %s.", step, problem)
            done = min(step, self.trainer.max_iter - 1)
            _log_stop(e.signum, f"in the evaluation after step {done}. --resume repeats it")
            raise


def _log_stop(signum, what):
    logging.getLogger(__name__).info("Stopped by %s %s.", signal.Signals(signum).name, what)
