"""Loading weights: safely, completely, and into both student and teacher."""

import os
from collections.abc import Sequence
from typing import Any, Optional
from urllib.parse import urlparse

import torch
from detectron2.config import CfgNode

from ..config.label_kinds import has_class_names, label_kinds
from ..config.models import is_label_free
from ..data.classes import expect_classes, label_names, model_class_names, positions, stated_classes
from ..data.custom_sets import targets_alone
from ..errors import CheckpointError
from ..modeling import MIC
from .finite_state import first_nonfinite
from .formats import read_pickle, read_safetensors, read_torch, with_tensors
from .libraries import LIBRARIES, fetch
from .matching import OPTIONAL, match_shapes, rename_keys, select_weights, split_parts
from .run_settings import changed_settings, config_settings
from .storage import CheckpointFiles
from .trainer_state import MOST_STEPS

__all__ = ["CheckpointError", "MICCheckpointer"]


class MICCheckpointer(CheckpointFiles):
    """Detectron2's checkpointer, for plain detectors and for MIC.

    - Files are never executed: ``.pth`` with ``weights_only``, ``.pkl`` through an unpickler that
      admits arrays and plain containers alone; ``.safetensors`` holds no code.
    - A plain detector's weights go into student and teacher; so do backbone weights, of Detectron2's
      zoo, of torchvision or timm (``torchvision://NAME``, ``timm://NAME``, or a local state dict).
    - A plain detector takes MIC's teacher, which is what MIC is evaluated by, or its student
      (``MODEL.MIC.WEIGHTS_FROM``). Teachers and students of other frameworks are understood.
    - Loading stops where less than ``min_matched_keys`` of the backbone is found, and where shapes
      differ except for the number of classes.
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
        class_names: Optional[Sequence[str]] = None,
        pixel_class_names: Optional[Sequence[str]] = None,
        targets: Sequence[str] = (),
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
            class_names (list[str]): of the model's classes, in the order of its outputs; written into checkpoints, and
                compared with those of a checkpoint that is loaded.
            pixel_class_names (list[str]): of the label maps; likewise.
            targets (collection of str): sets whose labels are not used.
        """
        super().__init__(model, save_dir, **kwargs)
        self.min_matched_keys, self.weights_from = min_matched_keys, weights_from
        self.complete, self.trust = complete, trust
        self.class_names, self.pixel_class_names, self.targets = class_names, pixel_class_names, targets
        self.named_classes = None  # what the checkpoint that was loaded says of the model's classes
        self.cfg = None
        self.restarted = []  # tensors of the model that the file last loaded does not fill

    @classmethod
    def from_config(cls, cfg: CfgNode, model: torch.nn.Module, save_dir: str = "", **kwargs: Any) -> "MICCheckpointer":
        """With the config's keys; ``kwargs`` are the constructor's."""
        keys = {
            "min_matched_keys": cfg.MODEL.BACKBONE.MIN_MATCHED_KEYS,
            "weights_from": cfg.MODEL.MIC.WEIGHTS_FROM,
            "targets": targets_alone(cfg),
        }
        sets = cfg.DATASETS
        # a model that predicts gets the names of the file, unless a set or the config tells them
        if has_class_names(cfg) and (sets.TRAIN or sets.CLASS_NAMES or not kwargs.get("complete")):
            keys["class_names"] = model_class_names(cfg)
        if "pixels" in label_kinds(cfg):
            keys["pixel_class_names"] = label_names(cfg, "pixels") or None
        checkpointer = cls(model, save_dir, **keys, **kwargs)
        checkpointer.cfg = cfg
        return checkpointer

    def save(self, name, **kwargs):
        """See :class:`CheckpointFiles`; the names of the classes are written too, where they are known."""
        super().save(name, **self._named(), **kwargs)

    def save_weights(self, name, **kwargs):
        """See :class:`CheckpointFiles`; with the names of the classes, too."""
        super().save_weights(name, **self._named(), **kwargs)

    def _named(self):
        known = {"class_names": self.class_names, "pixel_class_names": self.pixel_class_names}
        return {key: [str(n) for n in names] for key, names in known.items() if names}

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
        """See Detectron2.

        Raises:
            CheckpointError: where the file is missing, broken, unsafe, or lacks the backbone.
        """
        if path and path.startswith(LIBRARIES):
            self._load_checked({"model": fetch(path)}, path)
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
        try:
            return self._load_checked(checkpoint, self._source)
        except CheckpointError as e:
            raise CheckpointError(f"{e}{self._other_settings(checkpoint)}") from e

    def _other_settings(self, checkpoint):
        """A sentence about keys of the model that were not as they are now, where the checkpoint tells them."""
        for key in ("trainer", "hooks", "ExactState", "settings"):
            checkpoint = checkpoint.get(key) if isinstance(checkpoint, dict) else None
        if not isinstance(checkpoint, dict) or self.cfg is None:
            return ""
        changes = [x for x in changed_settings(checkpoint, config_settings(self.cfg)) if x.startswith("MODEL.")]
        return f" Settings that differ: {'; '.join(changes)}." if changes else ""

    def _load_checked(self, checkpoint, path):
        is_mic = isinstance(self.model, MIC)
        compared = {"class_names": self._compare_classes, "pixel_class_names": self._compare_pixel_classes}
        for key, compare in compared.items():
            named = checkpoint.pop(key, None)
            if isinstance(named, list) and all(isinstance(n, str) for n in named):
                compare(named, path)
        heuristics, author = checkpoint.pop("matching_heuristics", False), checkpoint.get("__author__", "")
        parts, rest = split_parts(checkpoint)
        if not is_mic:
            parts, rest = {"": select_weights(parts, self.weights_from, path)}, {}
        elif len(parts) == 1:  # into both
            parts = dict.fromkeys(("teacher", "student"), select_weights(parts, "", path))
        if is_mic:
            rest.setdefault("num_steps", torch.zeros_like(self.model.num_steps))
        state, seen = self._fitting_rest(rest, path), {}
        for part, found in parts.items():
            if id(found) not in seen:  # what goes into both is matched and told of once
                detector = getattr(self.model, part) if part else self.model
                found_names = rename_keys(found, detector, path, heuristics, author)
                seen[id(found)] = match_shapes(found_names, detector, path, self.min_matched_keys, self.complete)
            state.update({f"{part}.{k}" if part else k: v for k, v in seen[id(found)].items()})
        if is_mic:
            self._fill_from_each_other(state, path)
        checkpoint["model"] = self._checked_values(state, path)
        self.restarted = [k for k in self.model.state_dict() if k not in state and not OPTIONAL.search(k)]
        return super()._load_model(checkpoint)

    def _compare_classes(self, named, path):
        """The model's outputs mean what the checkpoint says, if it says so: test sets are brought into its order.

        Raises:
            CheckpointError: where a model would be trained on from a checkpoint that has its classes in another order.
        """
        if self.class_names is None and self._without_labels():
            self.class_names = named
        own = self.class_names
        places = positions(named, own) if own else []
        same_names = own and len(own) == len(named) and None not in places
        if own and not same_names:
            if self.complete:
                self.logger.warning(
                    "%s names the classes %s, and DATASETS.TRAIN names %s: those of DATASETS.TRAIN are used.",
                    path, named, own,
                )  # fmt: skip
        elif self.complete:
            self._state_classes(own if places == list(range(len(named))) else named, path)
        elif same_names and places != list(range(len(own))):
            raise CheckpointError(
                f"{path} was trained on the classes {named}, and DATASETS.TRAIN has them in another order, {own}: the "
                "weights of one class would start as those of another. Give the set's categories the ids of that order."
            )

    def _compare_pixel_classes(self, named, path):
        """Label maps are not mapped: their numbers must be the model's.

        Raises:
            CheckpointError: where the checkpoint has the same classes in another order.
        """
        if self.pixel_class_names is None and self._without_labels():
            self.pixel_class_names = named
        own = self.pixel_class_names
        if not own:
            return
        places = positions(named, own)
        if None not in places and len(own) == len(named) and places != list(range(len(own))):
            raise CheckpointError(
                f"{path} was trained on the classes of pixels {named}, and DATASETS has them in another order, "
                f"{list(own)}: SEM_SEG_CLASSES must name the labels 0, 1, ... of the label maps as they were."
            )

    def _without_labels(self):
        """Whether a training has no labelled set, so that the checkpoint it starts from tells the classes."""
        return not self.complete and self.cfg is not None and is_label_free(self.cfg)

    def _state_classes(self, named, path):
        if (stated_classes() or named) != named:
            raise CheckpointError(
                f"{path} has the classes {named}, the checkpoint before it {stated_classes()}: use one call for each."
            )
        self.named_classes = named
        expect_classes(classes=named, except_for=self.targets)

    def _fill_from_each_other(self, state, path):
        """What one of teacher and student has alone: an average of it with random numbers would be neither."""
        for part, other in (("teacher.", "student."), ("student.", "teacher.")):
            own = [k for k in self.model.state_dict() if k.startswith(part)]
            lost = [k for k in own if k not in state and other + k[len(part) :] in state]
            if lost:
                self.logger.warning(
                    "%s: %d tensors of the %s do not fit, such as %s: those of the %s are used.",
                    path, len(lost), part[:-1], lost[0], other[:-1],
                )  # fmt: skip
            state.update({k: state[other + k[len(part) :]] for k in lost})

    def _checked_values(self, state, path):
        """The tensors in the model's number formats.

        Raises:
            CheckpointError: where one is not finite, or would not be; names it.
        """
        own = self.model.state_dict()
        state = {k: v.to(own[k].dtype) if k in own else v for k, v in state.items()}
        bad = first_nonfinite((k, v) for k, v in state.items() if k in own)
        if bad:
            raise CheckpointError(
                f"{path} holds weights that are NaN or infinite: {bad} is the first. The training that wrote it has "
                "diverged: take an earlier checkpoint."
            )
        steps = state.get("num_steps")
        if steps is not None and isinstance(self.model, MIC) and not 0 <= int(steps) < MOST_STEPS:
            raise CheckpointError(f"{path}: its num_steps is {int(steps)}, but a training counts its steps from 0.")
        return state

    def _fitting_rest(self, rest, path):
        """What MIC has beside its detectors: the domain classifiers of another config start at random."""
        own = self.model.state_dict()
        wrong = [k for k, v in rest.items() if k in own and v.shape != own[k].shape]
        if wrong:
            self.logger.warning("%s: %d tensors of another shape are left out: %s", path, len(wrong), ", ".join(wrong))
        return {k: v for k, v in rest.items() if k not in wrong}
