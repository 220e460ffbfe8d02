"""What programs write never takes the place of what they did not make, or of what they read."""

import os

import pytest

from mic_det.errors import DataError
from mic_det.utils.outputs import Outputs


def refused(outputs, name="a.txt"):
    for act in (lambda: outputs.check([name]), lambda: outputs.write_text(name, "new")):
        with pytest.raises(DataError) as caught:
            act()
        assert name.rpartition("/")[2] in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_files_own_program_replaces_it_and_others_do_not(tmp_path):
    Outputs(tmp_path, "one").write_text("sub/a.txt", "old")
    Outputs(tmp_path, "one").write_text("sub/a.txt", "new")
    assert (tmp_path / "sub/a.txt").read_text() == "new"
    assert "--overwrite" in refused(Outputs(tmp_path, "two"), "sub/a.txt")
    Outputs(tmp_path, "two", overwrite=True).write_text("sub/a.txt", "newer")
    assert "did not make it" in refused(Outputs(tmp_path, "one"), "sub/a.txt"), "it is the other's now"
    assert (tmp_path / "sub/a.txt").read_text() == "newer"


def test_a_file_that_the_user_changed_is_the_users(tmp_path):
    Outputs(tmp_path, "one").write_text("a.txt", "made by a program")
    (tmp_path / "a.txt").write_text("MADE by a program")  # as many bytes
    refused(Outputs(tmp_path, "one"))
    assert (tmp_path / "a.txt").read_text() == "MADE by a program"


def test_large_files_are_told_apart_at_both_ends_and_known_in_a_copied_folder(tmp_path):
    for place in (0, -1):
        folder = tmp_path / str(place)
        content = bytearray(5 * 2**20)
        with Outputs(folder, "one").writing("a.txt") as file:
            file.write_bytes(content)
        os.utime(folder / "a.txt", (1, 1))  # a copy has another time
        Outputs(folder, "one").check(["a.txt"])
        content[place] = 1
        (folder / "a.txt").write_bytes(content)
        refused(Outputs(folder, "one"))


def test_a_program_that_is_killed_between_writing_and_naming_can_go_on(tmp_path, monkeypatch):
    Outputs(tmp_path, "one").write_text("a.txt", "old")

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Outputs(tmp_path, "one").write_text("a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == [".mic_det_files", "a.txt"]
    Outputs(tmp_path, "one").write_text("a.txt", "newer")
    assert (tmp_path / "a.txt").read_text() == "newer"


@pytest.mark.parametrize("overwrite", [False, True])
def test_inputs_are_never_outputs(tmp_path, overwrite):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.txt").write_text("mine")
    os.link(tmp_path / "a.txt", tmp_path / "linked.txt")
    (tmp_path / "way").symlink_to(tmp_path / "in")
    inputs = [tmp_path / "a.txt", tmp_path / "in", "", "torchvision://resnet18", tmp_path / "not there"]
    outputs = Outputs(tmp_path, "one", inputs, overwrite)
    for name in ("a.txt", "linked.txt", "in/b.txt", "in/deep/b.txt", "way/b.txt", "sub/../in/b.txt"):
        assert "read" in refused(outputs, name)
    assert os.listdir(tmp_path / "in") == [] and (tmp_path / "a.txt").read_text() == "mine"
    outputs.write_text("input.txt", "next to it")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_ordinary_file_is_left_alone(tmp_path, overwrite):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    assert "a pipe" in refused(Outputs(tmp_path, "one", overwrite=overwrite), "pipe.txt")
    assert "Is a directory" in refused(Outputs(tmp_path, "one", overwrite=overwrite), "folder.txt")


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "a.txt").symlink_to(tmp_path / "mine.txt")
    refused(Outputs(tmp_path, "one"))
    Outputs(tmp_path, "one", overwrite=True).write_text("a.txt", "new")
    assert (tmp_path / "mine.txt").read_text() == "mine" and (tmp_path / "a.txt").read_text() == "new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    outputs = Outputs(tmp_path, "one")
    outputs.write_text("a.txt", "old")
    with pytest.raises(ZeroDivisionError), outputs.writing("a.txt") as file:
        file.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), outputs.finishing("a.txt") as file:
        raise ZeroDivisionError  # nothing was written
    assert (tmp_path / "a.txt").read_text() == "old" and len(os.listdir(tmp_path)) == 2
    with pytest.raises(ZeroDivisionError), outputs.finishing("a.txt") as file:
        file.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "half"


def test_what_the_disk_refuses_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write .*check --output"):
        Outputs(tmp_path / "file", "one").write_text("a.txt", "new")


def test_a_damaged_record_only_means_that_files_are_not_known(tmp_path):
    Outputs(tmp_path, "one").write_text("a.txt", "old")
    with open(tmp_path / ".mic_det_files", "ab") as f:
        f.write(b'\xff\n[1]\n"a"\nnull\n["one", ["a"], 3]\n{"a"')
    Outputs(tmp_path, "one").check(["a.txt"])
    (tmp_path / ".mic_det_files").unlink()
    refused(Outputs(tmp_path, "one"))
