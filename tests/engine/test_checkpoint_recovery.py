"""Checkpoints that cannot be written or read again: the last good one is found, and what is wrong is named."""

import logging
import os
import zipfile

import pytest
import torch
from torch import nn

from helpers.processes import small_files
from mic_det.checkpoint.storage import (
    CheckpointFiles,
    damage,
    numbered_checkpoints,
    write_atomically,
)
from mic_det.errors import CheckpointError


class State:
    """Something to be saved beside the model; tells what was loaded."""

    value = None

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def checkpointer(folder):
    return CheckpointFiles(nn.Linear(100, 100), str(folder), run=State())


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 9, 19 and 29, which hold their step."""
    writer = checkpointer(tmp_path)
    for step in (9, 19, 29):
        writer.checkpointables["run"].value = step
        writer.save(f"model_{step:07d}", iteration=step)
    return tmp_path


def resumed(folder):
    """The step that a new process resumes from; None where it starts anew."""
    reader = checkpointer(folder)
    extra = reader.resume_or_load("", resume=True)
    step = reader.checkpointables["run"].value
    assert extra.get("iteration") == step
    return step


def damages():
    """What can happen to a file of so many bytes: name -> new content."""
    return {
        "empty": lambda x: b"",
        "one byte short": lambda x: x[:-1],
        "half": lambda x: x[: len(x) // 2],
        "zeros": lambda x: bytes(len(x)),
        "lost block": lambda x: x[: len(x) // 2] + bytes(4096) + x[len(x) // 2 + 4096 :],
        "a changed bit": lambda x: x[: len(x) // 2] + bytes([x[len(x) // 2] ^ 1]) + x[len(x) // 2 + 1 :],
    }


@pytest.mark.parametrize("name", damages())
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_taken(folder, caplog, name):
    newest = folder / "model_0000029.pth"
    assert not damage(str(newest))
    newest.write_bytes(damages()[name](newest.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert resumed(folder) == 19
    assert str(newest) in caplog.text and "model_0000019.pth instead" in caplog.text


def test_all_damaged_is_an_error_that_names_them(folder):
    for file in folder.glob("*.pth"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model_0000029\.pth and 2 older are damaged"):
        resumed(folder)


@pytest.mark.parametrize("content", [None, "", "model_0000099.pth", "\0\0\0\0", "../model_0000029.pth"])
def test_a_lost_or_wrong_mark_of_the_last_one(folder, content):
    (folder / "last_checkpoint").unlink()
    if content is not None:
        (folder / "last_checkpoint").write_text(content)
    assert resumed(folder) == 29


def test_an_older_one_can_be_asked_for(folder):
    (folder / "last_checkpoint").write_text("model_0000009.pth\n")
    assert resumed(folder) == 9


def a_zip_of_something_else(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "x")


ODD_FILES = {
    "a zip of something else": a_zip_of_something_else,
    "a list": lambda path: torch.save([1, 2], path),
    "an object": lambda path: torch.save({"model": nn.Linear(2, 2)}, path),
    "weights alone": lambda path: torch.save({"model": {"a": torch.zeros(2)}}, path),
    "a folder": os.mkdir,
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: os.symlink("gone", path),
}


@pytest.mark.parametrize("kind", ODD_FILES)
@pytest.mark.parametrize("name", ["model_final.pth", "model_0000025.pth", "model_0000029.pth"])
def test_an_odd_file_beside_whole_ones_never_blocks(folder, kind, name):
    """Whether it is the last one, one between, or the end of another run."""
    (folder / "last_checkpoint").write_text(name if name == "model_0000029.pth" else "model_0000039.pth")
    (folder / name).unlink(missing_ok=True)
    ODD_FILES[kind](folder / name)
    assert resumed(folder) == (19 if name == "model_0000029.pth" else 29)


def test_nothing_to_resume_from_is_a_new_start(tmp_path):
    assert resumed(tmp_path) is None
    assert not checkpointer(tmp_path).has_checkpoint()


def test_the_end_of_a_run_alone_is_resumed_from(folder):
    """Someone kept model_final.pth and nothing else: it is neither passed over, nor loaded as if it were a start."""
    writer = checkpointer(folder)
    writer.checkpointables["run"].value = 33
    writer.save("model_final", iteration=33)
    for name in os.listdir(folder):
        if name != "model_final.pth":
            os.remove(folder / name)
    assert checkpointer(folder).has_checkpoint()
    assert resumed(folder) == 33
    (folder / "model_final.pth").write_bytes(b"")
    assert checkpointer(folder).has_checkpoint()
    with pytest.raises(CheckpointError, match="model_final.pth is damaged"):
        resumed(folder)


def test_later_numbers_are_not_fallen_back_to(folder):
    """They are of a run that was in the folder before."""
    (folder / "model_0000019.pth").write_bytes(b"")
    (folder / "last_checkpoint").write_text("model_0000019.pth")
    assert resumed(folder) == 9


def test_the_end_of_a_shorter_run_is_fallen_back_to(folder):
    writer = checkpointer(folder)
    writer.checkpointables["run"].value = 24
    writer.save("model_final", iteration=24)
    (folder / "model_0000029.pth").write_bytes(b"")
    (folder / "last_checkpoint").write_text("model_0000029.pth")
    assert resumed(folder) == 24
    (folder / "model_final.pth").write_bytes(b"")
    assert resumed(folder) == 19
    (folder / "last_checkpoint").write_text("model_final.pth")
    (folder / "model_0000029.pth").unlink()
    assert resumed(folder) == 19


def test_leftovers_are_removed_and_nothing_else(folder):
    others = ["model_0000029.pth", "notes.tmp", "last_checkpoint", "model.tmp"]
    for name in ("model_0000039.pth.tmp", "model_final.pth.tmp", "last_checkpoint.tmp", *others):
        if not (folder / name).exists():
            (folder / name).write_bytes(b"x")
    before = set(os.listdir(folder))
    checkpointer(folder).remove_leftovers()
    gone = {"model_0000039.pth.tmp", "model_final.pth.tmp", "last_checkpoint.tmp"}
    assert set(os.listdir(folder)) == before - gone


@pytest.mark.parametrize("keep, left", [(0, [9, 19, 29, 39]), (1, [29, 39]), (2, [19, 29, 39]), (5, [9, 19, 29, 39])])
def test_old_ones_are_removed(folder, keep, left):
    (folder / "model_0000039.pth").write_bytes(b"of a run that was longer")
    (folder / "model_final.pth").write_bytes(b"x")
    checkpointer(folder).remove_old(keep, step=29)
    assert [step for step, _ in numbered_checkpoints(folder)] == left
    assert (folder / "model_final.pth").exists()


# ------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("size", [1, 5000, 30000, 41000])
def test_a_checkpoint_that_does_not_fit_leaves_everything_as_it_was(folder, size):
    writer = checkpointer(folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for name in ("model_0000039", "model_0000029"):
        with pytest.raises(CheckpointError) as caught, small_files(size):
            writer.save(name, iteration=39)
        message = str(caught.value)
        assert str(folder / f"{name}.pth") in message and "File too large" in message and "\n" not in message
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert resumed(folder) == 29


def test_a_device_without_space(tmp_path):
    path = tmp_path / "last_checkpoint"
    path.write_text("old")
    (tmp_path / "last_checkpoint.tmp").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_atomically(str(path), lambda f: torch.save({"x": torch.zeros(99999)}, f))
    assert path.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["last_checkpoint"]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(str(tmp_path / "x"), lambda f: 1 / 0)
    with pytest.raises(CheckpointError, match="No such file or directory"):
        write_atomically(str(tmp_path / "gone/x"), lambda f: None)
    assert not list(tmp_path.iterdir())
