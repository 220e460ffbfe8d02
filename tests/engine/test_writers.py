"""metrics.json and TensorBoard of a run that is killed and resumed anywhere: what they would be without it."""

import json
import shutil
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.logged_run import STEPS, LoggedRun

CLOCK = ("eta_seconds", "time")


class Run(LoggedRun):
    """Logs a picture each 5 steps, and a result each 6."""

    def log(self, start):
        super().log(start)
        if self.iter >= start + 3:  # as Detectron2's IterationTimer, which does not count the first steps
            self.storage.put_scalar("time", 0.25)
        if self.iter % 5 == 4:
            self.storage.put_image("picture", np.full((3, 2, 2), self.iter, np.uint8))
        if self.iter % 6 == 5:
            self.storage.put_scalar("result", self.iter, smoothing_hint=False)


def rows(folder):
    found = [json.loads(x) for x in (folder / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in CLOCK} for x in found]


def events(folder):
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    reader.Reload()
    tags = reader.Tags()
    found = {t: [(e.step, e.value) for e in reader.Scalars(t)] for t in tags["scalars"] if t not in CLOCK}
    return {**found, **{t: [e.step for e in reader.Images(t)] for t in tags["images"]}}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    Run(folder).live()
    assert [s for s, _ in events(folder)["loss"]] == [3, 7, 11, 12] and events(folder)["picture"] == [4, 9]
    return folder


@pytest.mark.parametrize("clock", [0, -(10**6), 10**6], ids=["", "set back", "set forward"])
@pytest.mark.parametrize("saved", range(STEPS - 1))
def test_each_step_is_there_once_after_any_kill(tmp_path, straight, monkeypatch, saved, clock):
    """Killed at each step after each checkpoint, one step before and after a write among them; twice."""
    now = time.time
    for killed in range(saved + 1, STEPS, 2):
        folder = tmp_path / str(killed)
        states = Run(folder).live(save_after=[saved], until=killed)
        monkeypatch.setattr(time, "time", lambda: now() + clock)
        Run(folder).live(saved + 1, states[saved], until=killed)
        monkeypatch.setattr(time, "time", lambda: now() - clock)
        Run(folder).live(saved + 1, states[saved])
        monkeypatch.undo()
        assert rows(folder) == rows(straight)
        assert events(folder) == events(straight), killed
        shutil.rmtree(folder)


def test_an_event_that_was_cut_off_hides_nothing(tmp_path, straight):
    states = Run(tmp_path).live(save_after=[6], until=11)
    (file,) = tmp_path.glob("events*")
    file.write_bytes(file.read_bytes()[:-7])
    Run(tmp_path).live(7, states[6])
    assert events(tmp_path) == events(straight) and rows(tmp_path) == rows(straight)


def test_other_files_of_the_folder_stay(tmp_path):
    (tmp_path / "events.out.tfevents.note").write_text("mine")
    (tmp_path / "events.out.tfevents.folder").mkdir()
    states = Run(tmp_path).live(save_after=[6], until=11)
    Run(tmp_path).live(7, states[6])
    assert (tmp_path / "events.out.tfevents.note").read_text() == "mine"


def test_a_longer_run_keeps_its_first_evaluation_in_both(tmp_path):
    class Evaluated(Run):
        def after_train(self):
            self.storage.iter = self.iter
            self.storage.put_scalar("bbox/AP", 50.0 + self.iter, smoothing_hint=False)
            super().after_train()

    states = Evaluated(tmp_path, max_iter=6).live(save_after=[5], until=6)
    state = {**states[5], "max_iter": 6}
    Evaluated(tmp_path, max_iter=9).live(6, state, until=9)
    assert events(tmp_path)["bbox/AP"] == [(6, 56.0), (9, 59.0)]
    assert [(r["iteration"], r["bbox/AP"]) for r in rows(tmp_path) if "bbox/AP" in r] == [(6, 56.0), (9, 59.0)]
