"""A second run into a used OUTPUT_DIR: neither metrics, checkpoints, results nor the report join two runs."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
import torch

from helpers.faults import check_refused, run_program
from mic_det.engine.run_folder import note_command, prepare_run_folder
from mic_det.errors import ConfigError
from mic_det.experiments.run_files import read_run

pytestmark = pytest.mark.slow

TRAIN = "tools/train_net.py"
OURS = "MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: []\n  MIC:\n    BURN_IN_STEPS: 0\nSEED: 1\n"


def snapshot(folder):
    """The files but for run.lock, which changes as long as this process, in which the runs were, holds it."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "run.lock"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def fill(folder, config=OURS):
    """The files of a finished run, and one of the user's."""
    for name in ("model_0000004.pth", "model_final.pth", "metrics.json", "log.txt", "log.txt.rank1", "notes.md",
                 "events.out.tfevents.1.host.0", "inference/val/coco_instances_results.json", "visuals/0000002.jpg",
                 "student/inference/val/x.json", "non_finite/a.pth"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "last_checkpoint").write_text("model_final.pth")
    (folder / "config.yaml").write_text(config)
    return folder


def steps(folder):
    return [json.loads(x)["iteration"] for x in (folder / "metrics.json").read_text().splitlines()]


def iteration(folder):
    return torch.load(folder / (folder / "last_checkpoint").read_text(), weights_only=True)["iteration"]


@pytest.fixture
def used(scene):
    """A finished run of 4 steps in ``output``, beside a file of the user's."""
    config = scene.config(SOLVER__MAX_ITER=4, SOLVER__CHECKPOINT_PERIOD=2, DATASETS__TEST=[])
    code, text = run_program(TRAIN, "--config-file", config)
    assert code == 0, text[-3000:]
    output = scene.root / "output"
    (output / "notes.md").write_text("mine")
    return scene, output, snapshot(output)


def test_a_second_run_moves_the_first_aside_and_is_resumed_alone(used):
    scene, output, before = used
    config = scene.config(SOLVER__MAX_ITER=2, SOLVER__CHECKPOINT_PERIOD=1000, DATASETS__TEST=[], SEED=3)
    code, text = run_program(TRAIN, "--config-file", config)
    assert code == 0, text[-3000:]
    moved = snapshot(output / "previous_1")
    mine = {"notes.md", "run.lock"}
    # log.txt is left out: in one process Detectron2 keeps a log open, and holds the lock
    assert {k: v for k, v in moved.items() if k != "log.txt"} == {
        k: v for k, v in before.items() if k not in mine | {"log.txt"}
    }
    assert steps(output) == [1] and steps(output / "previous_1") == [3]
    assert (output / "notes.md").read_text() == "mine"
    assert sorted(p.name for p in output.glob("model_*")) == ["model_final.pth"], "none of the first run's"
    assert [read_run(output).setting("SEED"), read_run(output / "previous_1").setting("SEED")] == [3, 1]
    config = scene.config(SOLVER__MAX_ITER=3, SOLVER__CHECKPOINT_PERIOD=1000, DATASETS__TEST=[], SEED=3)
    command = f"python {Path(__file__).resolve().parents[2] / TRAIN} --config-file {config}"  # runpy's absolute path
    assert (output / "command_line.txt").read_text() == f"{command}\n"
    code, text = run_program(TRAIN, "--config-file", config, "--resume")
    assert (output / "command_line.txt").read_text() == f"{command}\n{command} --resume\n"
    assert code == 0 and steps(output) == [2] and iteration(output) == 2, text[-3000:]
    assert not (output / "previous_2").exists(), "a resumed run stays where it is"


def test_the_command_line_is_kept_as_a_shell_takes_it(tmp_path, monkeypatch):
    args = [
        "tools/train_net.py",
        "OUTPUT_DIR",
        "two words",
        "$HOME 'x'",
        "caf\u00e9",
        "b\udcff",
    ]  # the last is no UTF-8
    monkeypatch.setattr(sys, "argv", args)
    note_command(tmp_path)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    note_command(tmp_path)
    lines = (tmp_path / "command_line.txt").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    assert shlex.split(lines[0]) == ["python", *args]
    assert shlex.split(lines[1]) == ["torchrun", "--nproc-per-node", "4", *args]


def test_a_new_run_that_fails_before_its_first_checkpoint_cannot_resume_the_older_one(used):
    scene, output, _ = used
    config = scene.config(SOLVER__MAX_ITER=1, DATASETS__TEST=[], MODEL__WEIGHTS=str(scene.root / "missing.pth"))
    check_refused(TRAIN, ["--config-file", config], ["missing.pth"])
    config = scene.config(SOLVER__MAX_ITER=1, DATASETS__TEST=[])
    code, text = run_program(TRAIN, "--config-file", config, "--resume")
    assert code == 0 and steps(output) == [0] and iteration(output) == 0, text[-3000:]
    assert iteration(output / "previous_1") == 3


def test_weights_of_the_run_that_would_be_moved_are_refused(used):
    scene, output, before = used
    config = scene.config(SOLVER__MAX_ITER=1, DATASETS__TEST=[], MODEL__WEIGHTS=str(output / "model_final.pth"))
    check_refused(TRAIN, ["--config-file", config], ["MODEL.WEIGHTS", "previous_1", "--resume"])
    assert snapshot(output) == before


def test_an_evaluation_leaves_the_record_of_the_training_as_it_is(used):
    """Were config.yaml replaced, the report would name the training's results after another test set."""
    scene, output, before = used
    weights = output / "model_final.pth"
    config = scene.config(DATASETS__TEST=["target_val"])
    code, text = run_program(TRAIN, "--config-file", config, "--eval-only", "MODEL.WEIGHTS", weights)
    assert code == 0 and "Traceback" not in text, text[-3000:]
    after = snapshot(output)
    assert {k: after[k] for k in before} == before
    assert all(k.startswith("inference/") for k in after.keys() - before.keys())
    assert "target_val" in (output / "inference/config.yaml").read_text()


@pytest.mark.parametrize("config", [None, "MODEL:\n  MASK_ON: true\nSOLVER:\n  MIC: 1\n", "\0"])
def test_a_folder_that_is_no_run_of_ours_is_refused_and_stays_as_it_is(tmp_path, config):
    fill(tmp_path, config or "")
    if config is None:
        (tmp_path / "config.yaml").unlink()
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match="no config.yaml of a run of mic_det.*another OUTPUT_DIR"):
        prepare_run_folder(tmp_path)
    assert snapshot(tmp_path) == before


def test_a_folder_with_other_files_alone_is_used_as_it_is(tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "run.lock").write_text("")
    assert prepare_run_folder(tmp_path) == ""
    assert sorted(os.listdir(tmp_path)) == ["notes.md", "run.lock"]


def test_another_run_in_a_sub_folder_stays(tmp_path):
    """A user may call one "student", which is also what an evaluation of the student is called."""
    other = fill(fill(tmp_path) / "student")
    before = snapshot(other)
    target = prepare_run_folder(tmp_path)
    assert snapshot(other) == before and not os.path.exists(os.path.join(target, "student"))
    assert sorted(os.listdir(tmp_path)) == ["notes.md", "previous_1", "student"]


@pytest.mark.parametrize(
    "name", ["config.yaml", "model_final.pth", "inference/val/coco_instances_results.json", "visuals"]
)
def test_what_the_new_run_reads_is_not_moved_away(tmp_path, name):
    """Such as ``--config-file OUTPUT_DIR/config.yaml``, which Detectron2 opens once more."""
    fill(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    before = snapshot(tmp_path / "run")
    reads = [("--config-file", tmp_path / "elsewhere.yaml"), ("THE.KEY", tmp_path / "link" / name)]
    with pytest.raises(ConfigError, match="^THE.KEY .*is of the run in OUTPUT_DIR.*copy it.*--resume"):
        prepare_run_folder(tmp_path / "run", reads)
    assert snapshot(tmp_path / "run") == before
    assert prepare_run_folder(tmp_path / "run", reads, resume=True) == ""
    assert prepare_run_folder(tmp_path / "run", reads[:1])


def test_a_second_run_from_its_own_config_file_is_refused(used):
    _, output, before = used
    check_refused(TRAIN, ["--config-file", output / "config.yaml"], ["--config-file", "previous_1", "--resume"])
    left = snapshot(output)
    assert {k: v for k, v in left.items() if k != "run.lock"} == {k: v for k, v in before.items() if k != "run.lock"}


def test_each_run_has_its_number(tmp_path):
    for number in (1, 2, 3):
        before = snapshot(fill(tmp_path / "run"))
        assert prepare_run_folder(tmp_path / "run") == str(tmp_path / f"run/previous_{number}")
        kept = {k: v for k, v in before.items() if k != "notes.md" and not k.startswith("previous_")}
        assert snapshot(tmp_path / f"run/previous_{number}") == kept
    assert sorted(os.listdir(tmp_path / "run")) == ["notes.md", "previous_1", "previous_2", "previous_3"]


def test_a_run_killed_before_its_first_checkpoint_begins_anew_with_resume(tmp_path):
    """Its metrics would be there twice."""
    fill(tmp_path)
    for name in ("last_checkpoint", "model_final.pth", "model_0000004.pth"):
        (tmp_path / name).unlink()
    assert prepare_run_folder(tmp_path, resume=True) == str(tmp_path / "previous_1")
    assert sorted(os.listdir(tmp_path)) == ["notes.md", "previous_1"]


@pytest.mark.parametrize("name, content", [
    ("model_0000004.pth.tmp", "begun"), ("last_checkpoint.tmp", "model_0000004.pth"), ("last_checkpoint", ""),
    ("last_checkpoint", "\0\n"), ("last_checkpoint", "/old/place/model_0000004.pth"), ("model_best.pth.tmp", ""),
])  # fmt: skip
def test_what_cannot_be_resumed_from_is_no_checkpoint(tmp_path, name, content):
    """Such as what a kill within the first checkpoint leaves: the steps begin anew, and so must the metrics."""
    fill(tmp_path)
    for checkpoint in ("last_checkpoint", "model_final.pth", "model_0000004.pth"):
        (tmp_path / checkpoint).unlink()
    (tmp_path / name).write_text(content)
    assert prepare_run_folder(tmp_path, resume=True) == str(tmp_path / "previous_1")
    assert sorted(os.listdir(tmp_path)) == ["notes.md", "previous_1"]


@pytest.mark.parametrize("checkpoint", ["last_checkpoint", "model_final.pth", "model_0000004.pth"])
def test_a_run_with_any_checkpoint_is_left_to_resume(tmp_path, checkpoint):
    fill(tmp_path)
    for name in {"last_checkpoint", "model_final.pth", "model_0000004.pth"} - {checkpoint}:
        (tmp_path / name).unlink()
    before = snapshot(tmp_path)
    assert prepare_run_folder(tmp_path, resume=True) == "" and snapshot(tmp_path) == before


@pytest.mark.parametrize("moves", range(12))
@pytest.mark.parametrize("resume", [False, True])
def test_a_kill_while_files_are_moved_mixes_nothing(tmp_path, monkeypatch, moves, resume):
    before = snapshot(fill(tmp_path))
    rename, done = os.rename, []

    def killed(a, b):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(a)
        rename(a, b)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_run_folder(tmp_path)
    monkeypatch.undo()
    prepare_run_folder(tmp_path, resume=resume)
    assert sorted(os.listdir(tmp_path)) == ["notes.md", "previous_1"]
    assert snapshot(tmp_path / "previous_1") == {k: v for k, v in before.items() if k != "notes.md"}


# ------------------------------------------------------------------------------------------- the report


def write_metrics(folder, rows):
    folder.mkdir()
    (folder / "config.yaml").write_text("DATASETS: {TEST: [val]}\nSOLVER: {MAX_ITER: 60}\n")
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_run(folder)


def rows(count, loss, ap=None):
    found = [{"iteration": i, "total_loss": loss, "lr": 0.1} for i in range(19, count, 20)]
    return found + [{"iteration": count, "bbox/AP50": ap}] * (ap is not None)


def test_the_report_shows_the_last_of_two_runs_that_were_mixed_before(tmp_path):
    """Of a folder that an older version wrote into twice; a longer first run must not lend its end to the second."""
    alone = write_metrics(tmp_path / "alone", rows(40, 2.0))
    mixed = write_metrics(tmp_path / "mixed", rows(60, 1.0, ap=50.0) + rows(40, 2.0))
    assert mixed.metrics == alone.metrics and mixed.evaluations() == {}
    assert any("steps twice" in note for note in mixed.notes) and not any("twice" in note for note in alone.notes)


def test_the_report_shows_a_run_that_was_resumed_by_others_once(tmp_path):
    """Detectron2 itself leaves the rows of steps that are done again."""
    whole = write_metrics(tmp_path / "whole", rows(60, 1.0, ap=50.0))
    resumed = write_metrics(tmp_path / "resumed", rows(40, 1.0) + rows(60, 1.0, ap=50.0)[1:])
    assert resumed.metrics == whole.metrics and resumed.evaluations() == {"val": {60: {"AP50": 50.0}}}
