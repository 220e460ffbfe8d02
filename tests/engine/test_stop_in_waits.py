"""SIGTERM and Ctrl-C while a run waits for images or evaluates: it ends within seconds, and resumes exactly."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from detectron2.engine import HookBase

from helpers.data import write_config
from helpers.resume import MIC, make_trainer, metrics, run_config, same, saved
from mic_det.engine.trainer import MICTrainer
from mic_det.utils.signals import TrainingStopped

pytestmark = pytest.mark.slow

KEYS = {**MIC, "DATASETS__TEST": ["day"], "TEST__EVAL_PERIOD": 4, "SOLVER__MAX_ITER": 6}
LIMIT = 60.0  # seconds: the waits that are left take 1000, and the machine may be busy


@pytest.fixture(scope="module")
def straight(data):
    make_trainer(data, data / "straight_waits", **KEYS).train()
    return data / "straight_waits"


def send_later(seconds, signum, pid=None):
    timer = threading.Timer(seconds, os.kill, (pid or os.getpid(), signum))
    timer.daemon = True
    timer.start()


def stopped(trainer, signum):
    """Train until a signal ends it; returns the seconds that it took."""
    with pytest.raises(TrainingStopped) as caught:
        trainer.train()
    assert caught.value.code == 128 + signum
    return time.monotonic()


def check_resumed(data, output, straight):
    make_trainer(data, output, resume=True, **KEYS).train()
    ours, theirs = saved(output), saved(straight)
    assert same(ours["model"], theirs["model"])
    assert same(ours["trainer"]["hooks"]["ExactState"], theirs["trainer"]["hooks"]["ExactState"])
    assert metrics(output) == metrics(straight)


class Begun(HookBase):
    """Makes a file when the third step begins."""

    def __init__(self, file):
        self.file = file

    def before_step(self):
        if self.trainer.iter == 2:
            self.file.touch()


@pytest.mark.parametrize("workers, signum", [(0, signal.SIGINT), (1, signal.SIGTERM)])
def test_a_wait_for_images_that_never_come_is_left(data, tmp_path, straight, workers, signum, caplog):
    trainer = make_trainer(data, tmp_path / "run", **KEYS, DATALOADER__NUM_WORKERS=workers)
    source, images, main, begun = trainer.data_loader.domains[0], [], os.getpid(), tmp_path / "begun"
    read, delay = source["mapper"], 0.5

    def hanging(d):
        images.append(d)
        if len(images) > 10:  # a batch has 2, a step 2 batches: within the third step
            while not begun.exists():  # a worker is two batches ahead
                time.sleep(0.05)
            (tmp_path / "sent").write_text(str(time.monotonic() + delay))
            send_later(delay, signum, main)
            time.sleep(1000)
        return read(d)

    source["mapper"] = hanging
    trainer.register_hooks([Begun(begun)])
    before = signal.getsignal(signum)
    with caplog.at_level(logging.INFO):
        end = stopped(trainer, signum)
    assert end - float((tmp_path / "sent").read_text()) < LIMIT
    assert signal.getsignal(signum) is before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert [p.name for p in (tmp_path / "run").glob("model_*.pth")] == ["model_0000001.pth"], caplog.text
    assert "waiting for images" in caplog.text
    check_resumed(data, tmp_path / "run", straight)


def test_a_batch_that_comes_in_time_ends_the_step_in_order(data, tmp_path, monkeypatch):
    """Most waits are short: then nothing is lost, in several processes either."""
    monkeypatch.setattr("mic_det.engine.train_loop.PATIENCE", 100.0)  # the machine may be busy
    trainer = make_trainer(data, tmp_path / "run", **KEYS)
    source, images = trainer.data_loader.domains[0], []
    read = source["mapper"]

    def slow(d):
        images.append(d)
        if len(images) == 11:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        return read(d)

    source["mapper"] = slow
    stopped(trainer, signal.SIGTERM)
    assert [p.name for p in (tmp_path / "run").glob("model_*.pth")] == ["model_0000002.pth"]


@pytest.mark.parametrize("last", [False, True])
def test_a_long_evaluation_is_left_at_once_and_repeated(data, tmp_path, straight, last, monkeypatch, caplog):
    trainer = make_trainer(data, tmp_path / "run", **KEYS)
    normal, calls = MICTrainer.build_evaluator.__func__, []

    def build(cls, cfg, name):
        evaluator = normal(cls, cfg, name)
        calls.append(name)
        if len(calls) == 1 + last:  # the first evaluation is in the middle of the run
            evaluator.process = lambda inputs, outputs: (send_later(0.2, signal.SIGTERM), time.sleep(1000))
        return evaluator

    monkeypatch.setattr(MICTrainer, "build_evaluator", classmethod(build))
    begin = time.monotonic()
    with caplog.at_level(logging.INFO):
        end = stopped(trainer, signal.SIGTERM)
    assert end - begin < 10 * LIMIT  # with the steps before
    checkpoint = "model_final.pth" if last else "model_0000003.pth"  # no checkpoint was due after the fourth step
    assert [p.name for p in (tmp_path / "run").glob("model_*.pth")] == [checkpoint]
    assert f"Stopped by SIGTERM in the evaluation after step {5 if last else 3}. --resume repeats it." in caplog.text
    monkeypatch.undo()
    check_resumed(data, tmp_path / "run", straight)
    assert [r["iteration"] for r in metrics(tmp_path / "run") if "bbox/AP" in r] == [3, 6]


@pytest.mark.parametrize("what, ranks", [("wait", [1]), ("evaluate", [0, 1])])
def test_two_processes_are_ended_in_a_wait_and_in_an_evaluation(data, tmp_path, what, ranks):
    """The launcher gets the signal; the other process waits for gradients meanwhile, and cannot be asked."""
    keys = {"DATASETS__TEST": ["day"], "TEST__EVAL_PERIOD": 2, "SOLVER__CHECKPOINT_PERIOD": 100}
    config = write_config(tmp_path / "run.yaml", run_config(data, tmp_path / "run", **keys, SOLVER__IMS_PER_BATCH=2))
    helper = Path(__file__).resolve().parents[1] / "helpers" / "hang.py"
    command = [sys.executable, "-W", "ignore", helper, what, 1, "--config-file", config, "--num-gpus", 2]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with open(tmp_path / "out.txt", "wb") as out:
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=subprocess.STDOUT, env=env)
        files = [Path(f"{config}.{rank}") for rank in ranks]
        end = time.monotonic() + 600
        while not all(f.is_file() for f in files) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert process.poll() is None, (tmp_path / "out.txt").read_text()[-3000:]
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=5 * LIMIT)
        finally:
            process.kill()
    text = (tmp_path / "out.txt").read_text()
    assert code == 143, text[-3000:]
    assert "Traceback" not in text and "error:" not in text, text[-3000:]
    # two steps were done before the evaluation, and no checkpoint was due
    assert [p.name for p in (tmp_path / "run").glob("model_*.pth")] == ["model_0000001.pth"] * (what == "evaluate")


def test_slow_data_get_the_time_that_they_usually_take(data, tmp_path):
    """Else a signal would cost several processes, which cannot save in the middle of a step, all since the last one."""
    trainer = make_trainer(data, tmp_path / "run", **KEYS)._trainer
    for seconds in (9.0, 0.1, 3.0, 1.0):
        trainer._waited(seconds)
    assert trainer.usual_wait == pytest.approx(2.7), "the first does not count: workers are started in it"
    for _ in range(60):
        trainer._waited(0.01)
    assert trainer.usual_wait == pytest.approx(0.01), "of the last steps"
