"""Weights & Biases and MLflow (``LOG.WRITERS``): they receive TensorBoard's data and the config.

Each training is one run of the service. ``OUTPUT_DIR/trackers/ids.json`` has its id, so a resumed training resumes the
same run. Steps that a resumed training repeats are logged again. With an exact resume they have the same values.
"""

import importlib.util
import json
import logging
import os
import re
import time

import numpy as np
from detectron2.utils.events import EventWriter, get_event_storage

from ..checkpoint.storage import write_atomically
from ..errors import ConfigError
from ..utils.ordinary_files import is_ordinary, read_text
from ..utils.random_state import get_random_state, set_random_state
from .run_folder import TRACKERS
from .writers import WINDOW


def make_trackers(cfg):
    """The writers of ``LOG.WRITERS``, in this order. They start with the training.

    Raises:
        ConfigError: where a package is not installed; names the extra that has it.
    """
    for name in cfg.LOG.WRITERS:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of this name, where wandb writes
            raise ConfigError(
                f"LOG.WRITERS names {name!r}, which is not installed: run `pip install mic_det[{name}]` (in a "
                f"checkout: `pip install -e .[{name}]`), or remove it from LOG.WRITERS."
            )
    return [KINDS[name](cfg) for name in cfg.LOG.WRITERS]


class Tracker(EventWriter):
    """Scalars, pictures and histograms of Detectron2's storage, sent to a service.

    Subclasses have ``name`` and the methods ``_start``, ``_scalars``, ``_picture``, ``_histogram`` and ``_finish``. An
    error in them after the start is reported once. It stops the tracker, not the training.
    """

    name = ""

    def __init__(self, cfg):
        self.cfg, self.folder = cfg, os.path.join(cfg.OUTPUT_DIR, TRACKERS)
        self.ended = False  # whether the training has reached its last step
        self._last_write, self._active = -1, False

    def start(self, start_iter=0, last_write=-1):
        """Start the run, or resume it.

        Args:
            start_iter (int): the next step; 0 = a new run.
            last_write (int): an earlier process has written scalars up to this step.

        Raises:
            ConfigError: where the service cannot be reached, or needs a login.
        """
        run_id = self._read_ids().get(self.name) if start_iter else None
        os.makedirs(self.folder, exist_ok=True)
        state = get_random_state()  # the libraries draw random names
        try:
            run_id = self._start(run_id)
        except Exception as e:  # the libraries raise errors of all kinds
            raise ConfigError(f"LOG.WRITERS: {self.name} cannot start ({' '.join(str(e).split())}). {self.help}") from e
        finally:
            set_random_state(state)
        self._write_id(run_id)
        self._last_write, self._active = last_write, True

    def write(self):
        rows, last = {}, self._last_write
        for name, (value, step) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if step > self._last_write:
                rows.setdefault(step, {})[name] = value
                last = max(last, step)
        self._last_write = last
        for step, values in sorted(rows.items()):
            self._call(self._scalars, values, step)
        self.write_pictures()

    def write_pictures(self):
        """Send pictures and histograms. Call this before the storage is cleared."""
        storage = get_event_storage()
        for name, image, step in storage._vis_data:
            self._call(self._picture, name, to_picture(image), step)
        for x in storage._histograms:
            edges = [x["min"], *x["bucket_limits"]]
            self._call(self._histogram, x["tag"], x["bucket_counts"], edges, x["global_step"])

    def close(self):
        self._call(self._finish, self.ended)
        self._active = False

    def _call(self, function, *args):
        if not self._active:
            return
        try:
            function(*args)
        except Exception as e:  # an error of the service must not stop the training
            self._active = False
            logging.getLogger(__name__).warning(
                "%s failed (%s: %s). It receives no more data, and the training continues. --resume tries it again.",
                self.name, type(e).__name__, " ".join(str(e).split()),
            )  # fmt: skip

    def _read_ids(self):
        path = os.path.join(self.folder, "ids.json")
        try:
            content = json.loads(read_text(path)) if is_ordinary(path) else {}
            return content if isinstance(content, dict) else {}
        except (OSError, ValueError):
            logging.getLogger(__name__).warning("%s cannot be read: the run gets a new id.", path)
            return {}

    def _write_id(self, run_id):
        content = {**self._read_ids(), self.name: run_id}
        write_atomically(os.path.join(self.folder, "ids.json"), lambda f: f.write(json.dumps(content).encode("utf-8")))


class WandbTracker(Tracker):
    """Weights & Biases. ``WANDB_MODE=offline`` only writes to ``OUTPUT_DIR/trackers/wandb``, for `wandb sync`.

    A resumed offline run adds a folder there, with the same id. We have not sent such folders to a server.
    """

    name = "wandb"
    help = "Log in with `wandb login`, or set WANDB_MODE=offline."

    def _start(self, run_id):
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            id=run_id,
            resume="allow" if run_id else None,
            project=self.cfg.LOG.PROJECT,
            name=run_name(self.cfg.OUTPUT_DIR),
            dir=self.folder,
            config=to_plain(self.cfg),
            settings=wandb.Settings(console="off"),  # log.txt has the output
        )
        # wandb's own steps must grow, but a resumed run begins at an earlier step
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return self._run.id

    def _scalars(self, values, step):
        self._run.log({**values, "step": step})

    def _picture(self, name, picture, step):
        self._run.log({name: self._wandb.Image(picture), "step": step})

    def _histogram(self, name, counts, edges, step):
        self._run.log({name: self._wandb.Histogram(np_histogram=(counts, edges)), "step": step})

    def _finish(self, ended):
        self._run.finish(exit_code=0 if ended else 1)


class MLflowTracker(Tracker):
    """MLflow. ``MLFLOW_TRACKING_URI`` names a server, or a file: ``sqlite:////path/mlflow.db`` needs no network.

    With a database file, MLflow writes pictures and texts to ./mlruns. It has no histograms, so they are left out.
    """

    name = "mlflow"
    help = "Set MLFLOW_TRACKING_URI, e.g. to sqlite:////path/mlflow.db."

    def _start(self, run_id):
        import mlflow

        self._entities, self._client = mlflow.entities, mlflow.tracking.MlflowClient()
        if run_id is not None:
            self._run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        experiment = self._client.get_experiment_by_name(self.cfg.LOG.PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(self.cfg.LOG.PROJECT)
        self._run_id = self._client.create_run(number, run_name=run_name(self.cfg.OUTPUT_DIR)).info.run_id
        params = [mlflow.entities.Param(k, str(v)[:250]) for k, v in flat(to_plain(self.cfg)).items()]
        for i in range(0, len(params), 100):  # its limit
            self._client.log_batch(self._run_id, params=params[i : i + 100])
        self._client.log_text(self._run_id, self.cfg.dump(), "config.yaml")
        return self._run_id

    def _scalars(self, values, step):
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(allowed_name(k), float(v), now, step) for k, v in values.items()]
        for i in range(0, len(metrics), 1000):  # its limit
            self._client.log_batch(self._run_id, metrics=metrics[i : i + 1000])

    def _picture(self, name, picture, step):
        self._client.log_image(self._run_id, picture, f"pictures/{allowed_name(name)}/{step:07d}.png")

    def _histogram(self, name, counts, edges, step):
        pass

    def _finish(self, ended):
        self._client.set_terminated(self._run_id, "FINISHED" if ended else "KILLED")


KINDS = {tracker.name: tracker for tracker in (WandbTracker, MLflowTracker)}


def run_name(folder):
    """The last two folders of OUTPUT_DIR, such as "minicity/mic"."""
    parts = os.path.abspath(folder).split(os.sep)
    return "/".join(p for p in parts[-2:] if p)


def to_plain(cfg):
    """A config as nested dicts of plain values."""
    return {k: to_plain(v) if isinstance(v, dict) else v for k, v in cfg.items()}


def flat(values, prefix=""):
    """Dotted key -> value."""
    found = {}
    for key, value in values.items():
        name = f"{prefix}{allowed_name(str(key))}"
        found.update(flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value})
    return found


def allowed_name(name):
    """A name without characters that MLflow refuses."""
    return re.sub(r"[^/\w.\- ]", "_", name)


def to_picture(image):
    """A picture of Detectron2's storage, (3, H, W) uint8 or float in [0, 1], as (H, W, 3) uint8."""
    image = np.asarray(image.cpu() if hasattr(image, "cpu") else image).transpose(1, 2, 0)
    return image if image.dtype == np.uint8 else np.rint(image.clip(0, 1) * 255).astype(np.uint8)
