"""A training that only logs, that can be killed after any step and resumed from any checkpoint."""

from detectron2.engine import TrainerBase
from detectron2.utils.events import EventStorage

from mic_det.engine.writers import RunWriter

STEPS, PERIOD = 13, 4


class LoggedRun(TrainerBase):
    """Logs a loss at each step. Subclasses add to it in :meth:`log`. It counts steps as a training does."""

    def __init__(self, folder, trackers=(), max_iter=STEPS):
        super().__init__()
        self.max_iter = max_iter
        self.writer = RunWriter(str(folder), max_iter, PERIOD, trackers)
        self.register_hooks([self.writer])

    def log(self, start):
        """What the step ``self.iter`` of a process that began with step ``start`` puts into ``self.storage``."""
        self.storage.put_scalar("loss", 100.0 - self.iter**2)

    def live(self, start=0, state=None, save_after=(), until=STEPS):
        """The steps from ``start`` until the process is killed; returns the checkpoints: step -> state."""
        saved = {}
        self.start_iter = self.iter = start
        with EventStorage(start) as self.storage:
            if state is not None:
                self.writer.load_state_dict(state)
            self.before_train()
            if start:  # as MICTrainer: what comes after a checkpoint is written
                self.iter = self.storage.iter = start - 1
                self.after_step()
            for self.iter in range(start, until):
                self.storage.iter = self.iter
                self.before_step()
                self.log(start)
                if self.iter in save_after:
                    saved[self.iter] = self.writer.state_dict()
                self.after_step()
            if until == self.max_iter:
                self.iter += 1
                self.after_train()
            elif "_writer" in self.writer.events.__dict__:
                self.writer.events._writer.flush()
        return saved
