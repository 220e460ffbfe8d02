"""Loading weights: safely, completely, and into both student and teacher."""

import logging
import os
import pickle
import re
from urllib.parse import urlparse

import numpy as np
import torch
import torchvision
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

from ..modeling import MICRCNN
from ..modeling.torchvision_backbone import TorchvisionStages
from .checkpoint_files import CheckpointError, CheckpointFiles

TORCHVISION_PREFIX = "torchvision://"


class MICCheckpointer(CheckpointFiles):
    """Detectron2's checkpointer, for plain detectors and for MICRCNN.

    - Files are never executed: ``.pth`` with ``weights_only``, ``.pkl`` through an unpickler that
      admits arrays and plain containers alone.
    - A plain detector's weights go into student and teacher; so do backbone weights, of Detectron2's
      zoo or of torchvision (``torchvision://NAME`` or a local state dict).
    - A plain detector takes MICRCNN's teacher, which is what MICRCNN is evaluated by.
    - Loading stops where less than ``min_matched_keys`` of the backbone is found.
    - Files are written whole or not at all, and damaged ones are skipped (:class:`CheckpointFiles`).
    """

    def __init__(self, model, save_dir="", *, min_matched_keys=0.9, **kwargs):
        super().__init__(model, save_dir, **kwargs)
        self.min_matched_keys = min_matched_keys

    def load(self, path, *args, **kwargs):
        """See Detectron2.

        Raises:
            CheckpointError: where the file is missing, broken, unsafe, or lacks the backbone.
        """
        if path and path.startswith(TORCHVISION_PREFIX):
            self._load_checked({"model": _fetch_torchvision(path)}, path)
            return {}
        self._source = path
        try:
            return super().load(path, *args, **kwargs)
        except (AssertionError, OSError) as e:
            scheme = path and urlparse(path).scheme
            if path and not scheme and not os.path.isfile(path):
                raise CheckpointError(f"there is no checkpoint {path}. Check MODEL.WEIGHTS.") from e
            if scheme and isinstance(e, OSError):
                raise CheckpointError(
                    f"cannot fetch {path} ({e}). Download it, and give MODEL.WEIGHTS the file."
                ) from e
            raise
        finally:
            self._parsed_url_during_load = None  # Detectron2 leaves it set after an error

    def _load_file(self, filename):
        if filename.endswith(".pkl"):
            return _zoo_format(_load_plain_pickle(filename), filename)
        if filename.endswith(".pyth"):  # of pycls; Detectron2 loads these by torch's default, once unsafe
            return {"model": self._torch_load(filename)["model_state"], "matching_heuristics": True}
        return super()._load_file(filename)

    def _torch_load(self, f):
        try:
            data = torch.load(f, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as e:
            # of torch's long message only what it stumbled over; its advice is to load unsafely
            named = re.search(r"(?:GLOBAL|class) '?([\w.]+)", str(e))
            reason = f"it names {named[1]}" if named else (str(e) or type(e).__name__).splitlines()[0].split(". ")[0]
            raise CheckpointError(
                f"{f} cannot be loaded as weights ({reason}). It is damaged, or holds objects other than "
                "tensors and plain containers, which are refused because they could run code."
            ) from e
        if not isinstance(data, dict):
            raise CheckpointError(f"{f} holds {type(data).__name__}, not the weights of a model by their names.")
        return data

    def _load_model(self, checkpoint):
        return self._load_checked(checkpoint, self._source)

    def _load_checked(self, checkpoint, path):
        student = self.model.student if isinstance(self.model, MICRCNN) else self.model
        state = _without_prefix(checkpoint["model"], "module.")  # of DistributedDataParallel
        if not isinstance(self.model, MICRCNN) and any(k.startswith("teacher.") for k in state):
            self.logger.info("%s is a MICRCNN's: its teacher is loaded.", path)
            state = {k[len("teacher.") :]: v for k, v in state.items() if k.startswith("teacher.")}
        if checkpoint.pop("matching_heuristics", False):
            # names are matched against one detector: a teacher beside it would be ambiguous
            self._convert_ndarray_to_tensor(state)
            caffe2 = checkpoint.get("__author__") == "Caffe2"
            state = align_and_update_state_dicts(student.state_dict(), state, c2_conversion=caffe2)
        else:
            state = _from_torchvision(student, state)
        _check_backbone(student, state, path, self.min_matched_keys)
        if isinstance(self.model, MICRCNN):
            state = for_student_and_teacher(state)
        return super()._load_model({**checkpoint, "model": state})


def for_student_and_teacher(state):
    """A plain detector's state dict under both prefixes; MICRCNN's own is left as it is."""
    if any(k.startswith(("student.", "teacher.")) for k in state):
        return state
    return {part + k: v for part in ("student.", "teacher.") for k, v in state.items()}


def _without_prefix(state, prefix):
    """A state dict without a prefix that all of its keys have."""
    if state and all(k.startswith(prefix) for k in state):
        return {k[len(prefix) :]: v for k, v in state.items()}
    return state


def _fetch_torchvision(url):
    """The default weights of ``torchvision://NAME``."""
    try:
        weights = torchvision.models.get_model_weights(url[len(TORCHVISION_PREFIX) :]).DEFAULT
        return dict(weights.get_state_dict(progress=True))
    except ValueError as e:
        raise CheckpointError(f"MODEL.WEIGHTS is {url}: torchvision has no such model ({e}).") from e
    except OSError as e:
        raise CheckpointError(f"cannot fetch {url} ({e}). Download it, and give MODEL.WEIGHTS the file.") from e


def _from_torchvision(student, state):
    """Name a torchvision classifier's keys as they are called in the student's backbone."""
    stages = getattr(getattr(student, "backbone", None), "bottom_up", None)
    if not isinstance(stages, TorchvisionStages) or any("backbone." in k for k in state):
        return state
    wanted = stages.body.state_dict().keys()
    return {f"backbone.bottom_up.body.{k}": v for k, v in state.items() if k in wanted}


def _check_backbone(student, state, path, least):
    """Stop where too few of the backbone's keys are in ``state``, with the right shapes."""
    own = {k: v for k, v in student.state_dict().items() if k.startswith("backbone.")}
    # ImageNet weights have no FPN: what they must fill is the bottom-up part
    bottom_up = {k: v for k, v in own.items() if k.startswith("backbone.bottom_up.")} or own
    bottom_up = {k: v for k, v in bottom_up.items() if not k.endswith("num_batches_tracked")}
    state = {k.removeprefix("student."): v for k, v in state.items()}
    matched = sum(k in state and tuple(state[k].shape) == tuple(v.shape) for k, v in bottom_up.items())
    share = matched / max(len(bottom_up), 1)
    if share < least:
        missing = [k for k in bottom_up if k not in state or tuple(state[k].shape) != tuple(bottom_up[k].shape)]
        raise CheckpointError(
            f"{path} fills {matched} of {len(bottom_up)} tensors of the backbone ({share:.0%}; "
            f"MODEL.BACKBONE.MIN_MATCHED_KEYS asks for {least:.0%}). The first that is missing or has another "
            f"shape: {missing[0]}. Do MODEL.WEIGHTS and MODEL.BACKBONE belong together?"
        )
    logging.getLogger(__name__).info("%s fills %d of the backbone's %d tensors.", path, matched, len(bottom_up))


class _PlainUnpickler(pickle.Unpickler):
    """Admits NumPy arrays and plain containers, refuses every other global."""

    ALLOWED = frozenset(
        {
            ("collections", "OrderedDict"),
            ("_codecs", "encode"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
        }
    )

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise CheckpointError(
                f"it names {module}.{name}; only NumPy arrays and plain containers are admitted, because "
                "anything else could run code"
            )
        if module.startswith(("numpy.core", "numpy._core")):
            core = getattr(np, "_core", None) or np.core
            return getattr(core.multiarray, name)
        return super().find_class(module, name)


def _load_plain_pickle(filename):
    try:
        with open(filename, "rb") as f:
            return _PlainUnpickler(f, encoding="latin1").load()
    except CheckpointError as e:
        raise CheckpointError(f"{filename} is refused: {e}.") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, LookupError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"{filename} is not a readable pickle file ({' '.join(str(e).split())}). Fetch it again."
        ) from e


def _zoo_format(data, filename):
    """Detectron2's reading of ``.pkl`` files: its own zoo's, or Caffe2's."""
    if not isinstance(data, dict):
        raise CheckpointError(f"{filename} holds {type(data).__name__}, not the weights of a model by their names.")
    if "model" in data and "__author__" in data:
        return data
    blobs = {k: v for k, v in data.get("blobs", data).items() if not k.endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
