"""Loading weights: safely, completely, and into both student and teacher."""

import os
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from detectron2.config import CfgNode

from ..modeling import MIC
from .checkpoint_files import CheckpointFiles
from .weights_files import CheckpointError, read_pickle, read_safetensors, read_torch, with_tensors
from .weights_match import chosen_part, fitting, own_names, split_parts

__all__ = ["CheckpointError", "MICCheckpointer"]

TORCHVISION_PREFIX = "torchvision://"


class MICCheckpointer(CheckpointFiles):
    """Detectron2's checkpointer, for plain detectors and for MIC.

    - Files are never executed: ``.pth`` with ``weights_only``, ``.pkl`` through an unpickler that
      admits arrays and plain containers alone; ``.safetensors`` holds no code.
    - A plain detector's weights go into student and teacher; so do backbone weights, of Detectron2's
      zoo or of torchvision (``torchvision://NAME`` or a local state dict).
    - A plain detector takes MIC's teacher, which is what MIC is evaluated by, or its student
      (``MODEL.MIC.WEIGHTS_FROM``). Teachers and students of other frameworks are understood.
    - Loading stops where less than ``min_matched_keys`` of the backbone is found, and where shapes
      differ but for the number of classes.
    - Files are written whole or not at all, and damaged ones are skipped (:class:`CheckpointFiles`).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        save_dir: str = "",
        *,
        min_matched_keys: float = 0.9,
        weights_from: str = "teacher",
        complete: bool = False,
        trust: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model (nn.Module): MIC or a plain model.
            save_dir (str): folder that ``save`` writes to.
            min_matched_keys (float): see ``MODEL.BACKBONE.MIN_MATCHED_KEYS``.
            weights_from (str): see ``MODEL.MIC.WEIGHTS_FROM``.
            complete (bool): the model is to predict: every tensor of the detector must be filled.
            trust (bool): ``--trust-checkpoint``: code in files is run.
        """
        super().__init__(model, save_dir, **kwargs)
        self.min_matched_keys, self.weights_from = min_matched_keys, weights_from
        self.complete, self.trust = complete, trust

    @classmethod
    def from_config(cls, cfg: CfgNode, model: torch.nn.Module, save_dir: str = "", **kwargs: Any) -> "MICCheckpointer":
        """With the config's keys; ``kwargs`` are the constructor's."""
        keys = {
            "min_matched_keys": cfg.MODEL.BACKBONE.MIN_MATCHED_KEYS,
            "weights_from": cfg.MODEL.MIC.WEIGHTS_FROM,
        }
        return cls(model, save_dir, **keys, **kwargs)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
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
        except (AssertionError, OSError, ValueError) as e:
            if os.path.isdir(path):
                raise CheckpointError(f"{path} is a folder. Give MODEL.WEIGHTS a file in it.") from e
            if urlparse(path).scheme:
                raise CheckpointError(
                    f"cannot fetch {path} ({e}). Download it, and give MODEL.WEIGHTS the file."
                ) from e
            if not os.path.isfile(path):
                raise CheckpointError(f"there is no checkpoint {path}. Check MODEL.WEIGHTS.") from e
            raise CheckpointError(f"cannot load {path} ({e}).") from e
        finally:
            self._parsed_url_during_load = None  # Detectron2 leaves it set after an error

    def _load_file(self, filename):
        if filename.endswith(".pkl"):
            return with_tensors(read_pickle(filename, self.trust), self._source)
        if filename.endswith(".safetensors"):
            return with_tensors(read_safetensors(filename), self._source)
        if filename.endswith(".pyth"):  # of pycls; Detectron2 loads these by torch's default, once unsafe
            return {**self._torch_load(filename), "matching_heuristics": True}
        return super()._load_file(filename)

    def _torch_load(self, f):
        return with_tensors(read_torch(f, self.trust), self._source)

    def _load_model(self, checkpoint):
        return self._load_checked(checkpoint, self._source)

    def _load_checked(self, checkpoint, path):
        is_mic = isinstance(self.model, MIC)
        heuristics, author = checkpoint.pop("matching_heuristics", False), checkpoint.get("__author__", "")
        parts, rest = split_parts(checkpoint)
        if not is_mic:
            parts, rest = {"": chosen_part(parts, self.weights_from, path)}, {}
        elif len(parts) == 1:  # into both
            parts = dict.fromkeys(("teacher", "student"), chosen_part(parts, "", path))
        if is_mic:
            rest.setdefault("num_steps", torch.zeros_like(self.model.num_steps))
        state, seen = self._fitting_rest(rest, path), {}
        for part, found in parts.items():
            if id(found) not in seen:  # what goes into both is matched and told of once
                detector = getattr(self.model, part) if part else self.model
                found_names = own_names(found, detector, path, heuristics, author)
                seen[id(found)] = fitting(found_names, detector, path, self.min_matched_keys, self.complete)
            state.update({f"{part}.{k}" if part else k: v for k, v in seen[id(found)].items()})
        checkpoint["model"] = state
        return super()._load_model(checkpoint)

    def _fitting_rest(self, rest, path):
        """What MIC has beside its detectors: the domain classifiers of another config start anew."""
        own = self.model.state_dict()
        wrong = [k for k, v in rest.items() if k in own and v.shape != own[k].shape]
        if wrong:
            self.logger.warning("%s: %d tensors of another shape are left out: %s", path, len(wrong), ", ".join(wrong))
        return {k: v for k, v in rest.items() if k not in wrong}


def _fetch_torchvision(url):
    """The default weights of ``torchvision://NAME``."""
    try:
        weights = torchvision.models.get_model_weights(url[len(TORCHVISION_PREFIX) :]).DEFAULT
        return dict(weights.get_state_dict(progress=True))
    except ValueError as e:
        raise CheckpointError(f"MODEL.WEIGHTS is {url}: torchvision has no such model ({e}).") from e
    except OSError as e:
        raise CheckpointError(f"cannot fetch {url} ({e}). Download it, and give MODEL.WEIGHTS the file.") from e
