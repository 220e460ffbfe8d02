"""Weights & Biases and MLflow get what TensorBoard gets, of a run that is resumed too; their faults lose no training.

The tests against the libraries themselves are skipped where these are not installed: they are extras.
"""

import json
import logging
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.logged_run import STEPS, LoggedRun
from mic_det.engine.run_folder import prepare_run_folder
from mic_det.engine.setup import get_mic_cfg
from mic_det.engine.trackers import Tracker, make_trackers, to_picture
from mic_det.errors import ConfigError

PICTURE = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)


class Run(LoggedRun):
    """Logs a picture and a histogram each 5 steps, and a result each 6."""

    def __init__(self, cfg, trackers):
        super().__init__(cfg.OUTPUT_DIR, trackers)

    def log(self, start):
        super().log(start)
        if self.iter % 5 == 4:
            self.storage.put_image("pictures of/it", PICTURE)
            self.storage.put_histogram("weights", torch.arange(10.0) * self.iter, bins=4)
        if self.iter % 6 == 5:
            self.storage.put_scalar("bbox/AP50-straße", self.iter / 7, smoothing_hint=False)


class Recorder(Tracker):
    """Keeps what a service would get. ``broken``: the method that fails."""

    name, help = "recorder", "Plug it in."

    def __init__(self, cfg, broken=""):
        super().__init__(cfg)
        self.broken, self.ids, self.ends = broken, [], []
        self.scalars, self.pictures, self.histograms = {}, {}, {}

    def _fail(self, method):
        if method == self.broken:
            raise RuntimeError("the cable\nis out")

    def _start(self, run_id):
        self._fail("_start")
        torch.rand(1)
        self.ids.append(run_id)
        return run_id or "number 1"

    def _scalars(self, values, step):
        self._fail("_scalars")
        self.scalars.update({(name, step): value for name, value in values.items()})

    def _picture(self, name, picture, step):
        self._fail("_picture")
        self.pictures[name, step] = picture

    def _histogram(self, name, counts, edges, step):
        self.histograms[name, step] = counts, edges

    def _finish(self, ended):
        self.ends.append(ended)


def config(folder, *writers):
    folder.mkdir(exist_ok=True)
    return get_mic_cfg("", ["OUTPUT_DIR", str(folder), "LOG.WRITERS", list(writers), "LOG.PROJECT", "täst"])


def tensorboard(folder):
    """{(name, step): value} of scalars, {(name, step)} of pictures."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    reader.Reload()
    scalars = {(t, e.step): e.value for t in reader.Tags()["scalars"] for e in reader.Scalars(t)}
    return scalars, {(t, e.step) for t in reader.Tags()["images"] for e in reader.Images(t)}


# ------------------------------------------------------------------- what every tracker is given


@pytest.mark.parametrize("killed", range(6, STEPS))
def test_it_gets_what_tensorboard_gets_in_one_run_that_is_killed_and_resumed(tmp_path, killed):
    cfg = config(tmp_path)
    recorder = Recorder(cfg)
    state = Run(cfg, [recorder]).live(save_after=[5], until=killed)[5]
    Run(cfg, [recorder]).live(6, state)
    scalars, pictures = tensorboard(tmp_path)
    assert recorder.scalars.keys() == scalars.keys() and recorder.pictures.keys() == pictures
    assert {k: np.float32(v) for k, v in recorder.scalars.items()} == scalars
    assert {s for n, s in scalars if n == "loss"} == {3, 7, 11, 12} and pictures == {
        ("pictures of/it", s) for s in (4, 9)
    }
    assert all((p == PICTURE.transpose(1, 2, 0)).all() for p in recorder.pictures.values())
    counts, edges = recorder.histograms["weights", 4]  # 0, 4, ..., 36 in four bins of width 9
    assert counts == [3, 2, 2, 3] and edges == [0, 9, 18, 27, 36]
    assert recorder.ids == [None, "number 1"] and recorder.ends == [True]
    assert json.loads((tmp_path / "trackers/ids.json").read_text()) == {"recorder": "number 1"}


def test_a_new_training_is_a_new_run_of_theirs(tmp_path):
    cfg = config(tmp_path)
    recorder = Recorder(cfg)
    for _ in range(2):
        Run(cfg, [recorder]).live()
    assert recorder.ids == [None, None]
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert prepare_run_folder(str(tmp_path), resume=False)
    assert not (tmp_path / "trackers").exists() and (tmp_path / "previous_1/trackers/ids.json").is_file()


def test_a_training_that_is_stopped_has_not_ended(tmp_path):
    cfg = config(tmp_path)
    recorder = Recorder(cfg)
    run = Run(cfg, [recorder])
    run.live(until=6)
    with EventStorage(6) as run.storage:
        run.after_train()
    assert recorder.ends == [False]


@pytest.mark.parametrize("method", ["_scalars", "_picture"])
def test_a_service_that_fails_is_reported_once_and_loses_no_training(tmp_path, caplog, method):
    cfg = config(tmp_path)
    bad, good = Recorder(cfg, method), Recorder(cfg)
    good.name = "other"
    with caplog.at_level(logging.WARNING, "mic_det"):
        Run(cfg, [bad, good]).live()
    (record,) = [r for r in caplog.records if "recorder failed" in r.getMessage()]
    assert "RuntimeError: the cable" in record.getMessage() and "training continues" in record.getMessage()
    assert not bad.ends and good.ends == [True] and len(good.scalars) == 6
    assert len((tmp_path / "metrics.json").read_text().splitlines()) == 5


def test_a_service_that_cannot_start_stops_the_run_before_its_first_step(tmp_path):
    cfg = config(tmp_path)
    with pytest.raises(ConfigError, match="LOG.WRITERS: recorder cannot start .the cable is out.. Plug it in."):
        Run(cfg, [Recorder(cfg, "_start")]).live()
    assert not (tmp_path / "trackers/ids.json").exists()


def test_starting_draws_none_of_the_trainings_random_numbers(tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Recorder(config(tmp_path)).start()
    assert torch.rand(1) == expected


@pytest.mark.parametrize("kind", ["nothing", "a folder"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, kind):
    name = "wandb"
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, name, raising=False)
    if kind == "a folder":  # where wandb writes, in the working folder: Python takes it for a package
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=r"LOG.WRITERS names 'wandb', which is not installed.*mic_det\[wandb\]"):
        make_trackers(config(tmp_path / "run", name))


def test_pictures_of_floats():
    image = torch.tensor([0.0, 0.5, 1.5]).reshape(3, 1, 1)
    assert to_picture(image).tolist() == [[[0, 128, 255]]]


# --------------------------------------------------------------------------- the libraries themselves


@pytest.mark.slow
def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    cfg = config(tmp_path / "run", "mlflow")
    state = Run(cfg, make_trackers(cfg)).live(save_after=[5], until=9)[5]
    Run(cfg, make_trackers(cfg)).live(6, state)
    client = mlflow.tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("täst").experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == f"{tmp_path.name}/run"
    assert run.data.params["MODEL.MIC.MASK.BLOCK_SIZE"] == str(cfg.MODEL.MIC.MASK.BLOCK_SIZE)
    found = {
        (name, m.step): np.float32(m.value)
        for name in run.data.metrics
        for m in client.get_metric_history(run.info.run_id, name)
    }
    assert found == tensorboard(tmp_path / "run")[0]
    artifacts = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (artifacts / "config.yaml").read_text(encoding="utf-8") == cfg.dump()
    assert sorted(p.name for p in (artifacts / "pictures/pictures of/it").iterdir()) == ["0000004.png", "0000009.png"]


def wandb_records(content):
    """The records of an offline run's file: LevelDB's log format, after a head of seven bytes."""
    at, parts = 7, []
    while at + 7 <= len(content):
        if at % 2**15 > 2**15 - 7:  # the rest of a block is too short for a head
            at += 2**15 - at % 2**15
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


@pytest.mark.slow
def test_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = config(tmp_path / "run", "wandb")
    state = Run(cfg, make_trackers(cfg)).live(save_after=[5], until=9)[5]
    wandb.teardown()
    Run(cfg, make_trackers(cfg)).live(6, state)
    wandb.teardown()
    found, pictures, ids, codes = {}, set(), set(), []
    for file in sorted(tmp_path.glob("run/trackers/wandb/offline-run-*/*.wandb")):
        for content in wandb_records(file.read_bytes()):
            record = Record.FromString(content)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
                assert record.run.project == "täst"
            elif record.WhichOneof("record_type") == "exit":
                codes.append(record.exit.exit_code)
            elif record.WhichOneof("record_type") == "history":
                row = {i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
                for name in ("loss", "bbox/AP50-straße"):
                    if name in row:
                        found[name, row["step"]] = np.float32(row[name])
                pictures |= {(k, row["step"]) for k in row if k == "pictures of/it"}
    scalars, expected = tensorboard(tmp_path / "run")
    assert found == {k: v for k, v in scalars.items() if k[0] != "time"} and pictures == expected
    assert ids == {json.loads((tmp_path / "run/trackers/ids.json").read_text())["wandb"]}
    assert codes[-1] == 0
