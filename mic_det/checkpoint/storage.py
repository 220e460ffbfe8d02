"""Checkpoint files: written whole or not at all, checked before a run is resumed from them, and thinned out."""

import contextlib
import logging
import os
import re
import zipfile

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from ..errors import CheckpointError
from ..utils.atomic_files import disk_error, write_whole
from .bounds import check_archive
from .finite_state import first_nonfinite, nested_tensors
from .formats import read_torch, with_tensors
from .trainer_state import state_problem

LAST, FINAL, BEST_LABEL_FREE = "last_checkpoint", "model_final.pth", "model_best_label_free.pth"
NUMBERED = re.compile(r"model_(\d{7,})\.pth")


def write_atomically(path, write):
    """Give a file its new content at once, and only when that is safe on the disk.

    Args:
        path (str): whoever opens it sees the old content or the new one, after a power failure too.
        write (callable): writes the new content to the binary file that it is called with.

    Raises:
        CheckpointError: where the disk refuses it (full, quota, read-only ...); the old file is as it was.
    """
    try:
        # a name that the next process finds: one process alone writes to a run's folder
        write_whole(path, write, temporary=f"{path}.tmp")
    except Exception as e:
        disk = disk_error(e)
        if disk is None:
            raise
        raise CheckpointError(
            f"cannot write {path} ({disk.strerror}). Earlier checkpoints are unchanged. Free some space, then "
            "continue with --resume. SOLVER.CHECKPOINT_KEEP limits how many are kept."
        ) from e


def damage(path):
    """What is wrong with a checkpoint file that :func:`write_atomically` wrote; "" where it is whole.

    torch's files are archives with a checksum for each tensor, so lost and changed bytes are both found.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        return "it is no ordinary file"
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, os.path.getsize(path))
            bad = archive.testzip()
        return f"{bad} in it has a wrong checksum" if bad else ""
    except Exception as e:  # a damaged archive makes zipfile stumble in many ways
        return " ".join(str(e).split()) or type(e).__name__


def tagged_checkpoint(folder):
    """The name in ``last_checkpoint``; "" where there is none, or none of a file of this folder."""
    try:
        with open(os.path.join(folder, LAST), encoding="utf-8", errors="replace") as f:
            name = f.read(4096).strip("\0 \r\n\t")
    except OSError:
        return ""
    return name if name and os.path.basename(name) == name else ""


def numbered_checkpoints(folder):
    """``(step, path)`` of the checkpoints that have their step in the name, oldest first."""
    with contextlib.suppress(OSError):
        names = [NUMBERED.fullmatch(x) for x in os.listdir(folder)]
        return sorted((int(m[1]), os.path.join(folder, m[0])) for m in names if m)
    return []


def has_checkpoint(folder):
    """Whether a folder has any file to resume from, whole or not."""
    return bool(
        tagged_checkpoint(folder) or numbered_checkpoints(folder) or os.path.lexists(os.path.join(folder, FINAL))
    )


class NonFiniteState(ValueError):
    """Weights or an optimizer's state that are not finite, and so are not saved; ``name`` is the first tensor."""

    def __init__(self, name):
        super().__init__(f"{name} is NaN or infinite")
        self.name = name


class CheckpointFiles(DetectionCheckpointer):
    """Detectron2's checkpointer as far as files are concerned: how they are written, chosen and removed."""

    trust = False  # whether code in files is run
    last_good = ""  # the newest file that this process has written or resumed from

    def save(self, name, **kwargs):
        """Write ``name``.pth below the output folder, whole or not at all.

        Raises:
            CheckpointError: where the disk refuses it.
            NonFiniteState: where it would not be finite; nothing is written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        self.check_finite(data)
        file = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", file)
        write_atomically(file, lambda f: torch.save(data, f))
        self.tag_last_checkpoint(os.path.basename(file))
        self.last_good = file

    def save_weights(self, name, **kwargs):
        """Write the weights alone, whole or not at all. A run does not resume from this file.

        Args:
            name (str): file name, without .pth.
            kwargs: what is written beside the weights.

        Raises:
            CheckpointError: where the disk refuses it.
        """
        if self.save_dir and self.save_to_disk:
            data = {"model": self.model.state_dict(), **kwargs}
            file = os.path.join(self.save_dir, f"{name}.pth")
            self.logger.info("Saving weights to %s", file)
            write_atomically(file, lambda f: torch.save(data, f))

    def check_finite(self, data=None):
        """Refuse weights, and what an optimizer has gathered, that are not finite. Cheap beside a save.

        Args:
            data (dict): a checkpoint's content; by default that of now.

        Raises:
            NonFiniteState: names the first tensor.
        """
        if data is None:
            data = {"model": self.model.state_dict()}
            data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        trainer = data.get("trainer")
        inner = trainer.get("_trainer") if isinstance(trainer, dict) else None
        name = first_nonfinite(data["model"].items())
        name = name or first_nonfinite(nested_tensors((inner or {}).get("optimizer", {}), "optimizer"))
        if name:
            raise NonFiniteState(name)

    def tag_last_checkpoint(self, last_filename_basename):
        write_atomically(os.path.join(self.save_dir, LAST), lambda f: f.write(last_filename_basename.encode()))

    def has_checkpoint(self):
        """Whether there is any file to resume from, whole or not."""
        return has_checkpoint(self.save_dir)

    def resume_or_load(self, path, *, resume=True):
        """As Detectron2's, but of damaged files, which are named in the log, the newest whole one before is taken.

        Raises:
            CheckpointError: where there are files to resume from, but all are damaged; and see :meth:`load`.
        """
        # all processes take the file that the first one chooses
        found = comm.all_gather(self._choose() if resume and comm.is_main_process() else "")[0]
        if isinstance(found, CheckpointError):
            raise found
        self.last_good = found
        return self.load(found) if found else self.load(path, checkpointables=[])

    def _choose(self):
        """The file to resume from, "" where there is none, or the error where all are damaged."""
        tagged, damaged = tagged_checkpoint(self.save_dir), []
        for file in [os.path.join(self.save_dir, tagged)] * bool(tagged) + self._older_than(tagged):
            problem = damage(file) or self._content_problem(file)
            if not problem:
                if damaged:
                    self.logger.warning("Resuming from %s instead.", file)
                return file
            self.logger.warning("Checkpoint %s is damaged (%s) and is skipped.", file, problem)
            damaged.append((file, problem))
        if not damaged:
            return ""
        file, problem = damaged[0]
        which = f"{file} and {len(damaged) - 1} older are" if damaged[1:] else f"{file} is"
        return CheckpointError(
            f"no checkpoint in {self.save_dir} can be resumed from: {which} damaged ({problem}). Put a "
            f"whole one there and its name into {LAST}, or start again without --resume."
        )

    def _content_problem(self, file):
        """What keeps a whole file from being resumed from, whatever the config is; "" where nothing does."""
        try:
            content = with_tensors(read_torch(file, self.trust, mmap=True), file)
        except CheckpointError as e:
            return str(e)
        missing = [key for key in self.checkpointables if key not in content]
        if missing:
            return f"it holds weights alone, without the state of a training ({missing[0]}); MODEL.WEIGHTS takes it"
        return state_problem(content)

    def _older_than(self, name):
        """Files to fall back to, newest first. Later numbers may be those of another run in the same folder."""
        number = NUMBERED.fullmatch(name)
        files = [
            (step, path) for step, path in numbered_checkpoints(self.save_dir) if not number or step < int(number[1])
        ]
        final = os.path.join(self.save_dir, FINAL)
        if name != FINAL and os.path.lexists(final):
            step = self._step_of(final)
            if not number or step < int(number[1]):
                files.append((step, final))
        return [path for _, path in sorted(files, reverse=True)]

    def _step_of(self, file):
        """The step after which a checkpoint was written; -1 where it does not tell, which makes it the last choice."""
        if not damage(file):
            with contextlib.suppress(CheckpointError):
                step = read_torch(file, self.trust, mmap=True).get("iteration")
                return step if isinstance(step, int) else -1
        return -1

    def remove_leftovers(self):
        """Remove what a killed process had begun to write. Not while another run writes to the folder."""
        names = []
        with contextlib.suppress(OSError):
            names = os.listdir(self.save_dir)
        for name in names:
            if name == f"{LAST}.tmp" or (name.startswith("model_") and name.endswith(".pth.tmp")):
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(self.save_dir, name))
                    self.logger.info("Removed %s, which a process that was killed had left.", name)

    def remove_old(self, keep, step):
        """Keep the ``keep`` newest numbered checkpoints up to a step; 0 = all. Others are not touched."""
        if not keep or not self.save_to_disk:
            return
        for _, path in [x for x in numbered_checkpoints(self.save_dir) if x[0] <= step][:-keep]:
            try:
                os.remove(path)
            except OSError as e:
                logging.getLogger(__name__).warning("Cannot remove the old checkpoint %s (%s).", path, e.strerror)
