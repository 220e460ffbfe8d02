"""Everything else that a run needs to go on as if it had never been stopped, and when it is saved."""

import logging
import signal

from detectron2.engine import HookBase
from detectron2.engine.hooks import PreciseBN
from detectron2.utils import comm

from ..config_detectron2 import flat_keys, value_of
from ..modeling.loss_normalizer import get_normalizers, set_normalizers
from ..random_state import get_random_state, set_random_state
from .signals import TrainingStopped

# Settings that do not change what is learned from which batch, or are told apart by other means
FREE = (
    "CUDNN_BENCHMARK", "DATALOADER.NUM_WORKERS", "DATASETS.DECLARED", "DATASETS.TEST", "GLOBAL",
    "INPUT.MAX_SIZE_TEST", "INPUT.MIN_SIZE_TEST", "MODEL.BACKBONE.MIN_MATCHED_KEYS", "MODEL.MIC.EVALUATE",
    "MODEL.WEIGHTS", "OUTPUT_DIR", "SEED", "SOLVER.CHECKPOINT_KEEP", "SOLVER.CHECKPOINT_PERIOD", "TEST", "VERSION",
    "VIS_PERIOD",
)  # fmt: skip


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
        settings = run_settings(self.cfg, self.trainer.data_loader)
        random, normalizers = (list(x) for x in zip(*self._own[1]))
        return {"random": random, "normalizers": normalizers, "data": data, "settings": settings}

    def load_state_dict(self, state_dict):
        self._resumed = state_dict

    def before_train(self):
        if not self.trainer.start_iter:
            return
        logger, state, self._resumed = logging.getLogger(__name__), self._resumed, None
        if state is None:
            logger.warning("The checkpoint does not tell how far the data were used: they begin anew, reshuffled.")
            return
        changes = changed_settings(state["settings"], run_settings(self.cfg, self.trainer.data_loader))
        if len(state["random"]) < comm.get_world_size() and not changes:
            changes = ["random numbers of the other processes: not in the checkpoint"]
        if any(isinstance(h, PreciseBN) for h in self.trainer._hooks):
            changes.append("TEST.PRECISE_BN.ENABLED: the batches that it measures begin anew")
        if changes:
            logger.warning("The run goes on, but not exactly as it would have without the stop: %s", "; ".join(changes))
        self.trainer.data_loader.load_state_dict(state["data"])
        if comm.get_rank() < len(state["random"]):
            set_random_state(state["random"][comm.get_rank()])
            set_normalizers(self.trainer.model, state.get("normalizers", {comm.get_rank(): ()})[comm.get_rank()])


def run_settings(cfg, loader):
    """What a run's steps depend on, as a flat dict of texts: config keys, sizes of the sets, number of processes."""
    keys = [k for k in flat_keys(cfg) if not any(k == x or k.startswith(x + ".") for x in FREE)]
    settings = {k: _text(value_of(cfg, k)) for k in keys}
    a = cfg.MODEL.MIC.ALIGNMENT
    if "Cosine" not in cfg.SOLVER.LR_SCHEDULER_NAME and (a.SCHEDULE == "constant" or a.RAMP_STEPS):
        del settings["SOLVER.MAX_ITER"]  # a run may be made longer
    sizes = {d["name"]: len(d["dicts"]) for d in loader.domains}
    settings["images of DATASETS.TRAIN"] = str(sizes["source"])
    settings["images of DATASETS.TARGET"] = str(sizes.get("target", 0))
    settings["number of processes"] = str(comm.get_world_size())
    return settings


def changed_settings(before, now):
    """``KEY: was X, is Y`` for each setting that differs, or that only one of the two has."""
    return [
        f"{k}: was {before.get(k, 'not there')}, is {now.get(k, 'not there')}"
        for k in sorted({**before, **now})
        if before.get(k) != now.get(k)
    ]


def _text(value):
    return str(list(value) if isinstance(value, tuple) else value)  # tuples and lists mean the same


class RunCheckpoints(HookBase):
    """Saves every so many steps, at the end, and when a signal stops the training.

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
        self.period, self.keep = period, keep

    def before_train(self):
        if comm.is_main_process():
            self.checkpointer.remove_leftovers()
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
            self.checkpointer.save(f"model_{step:07d}", iteration=step)
        if at_end:
            self.checkpointer.save("model_final", iteration=step)
        if comm.is_main_process():
            self.checkpointer.remove_old(self.keep, step)
        if signum:
            comm.synchronize()  # nobody leaves before all is saved
            name = signal.Signals(signum).name
            logging.getLogger(__name__).info("Stopped by %s after step %d. --resume goes on from there.", name, step)
            raise TrainingStopped(signum)

    def after_train(self):
        self.stop.remove()
