"""One run, one folder: the lock is had by one process, and by nobody once that is gone."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.data import write_config
from helpers.faults import check_refused, run_program
from helpers.resume import run_config
from mic_det.errors import ConfigError
from mic_det.utils import run_lock as module
from mic_det.utils.run_lock import RunLock, run_lock

pytestmark = pytest.mark.slow

# takes the lock of a folder in a process of its own, with a worker that outlives it; no torch is needed
HOLDER = """
import importlib.util, os, sys, time, types
for name in ("detectron2", "detectron2.utils", "mic_det", "mic_det.utils", "mic_det.errors"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["detectron2.utils"].comm = None
sys.modules["mic_det.errors"].ConfigError = ValueError
spec = importlib.util.spec_from_file_location("mic_det.utils.run_lock", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
owner = module.RunLock(sys.argv[2], 0.1).take()
if os.fork() == 0:
    os.close(1)
    time.sleep(20)
    os._exit(0)
print("free" if not owner else owner["pid"], flush=True)
sys.stdin.readline()
"""


def hold(folder):
    """A process that has tried to take the lock, and what it says."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, module.__file__, str(folder)], text=True, **pipes)
    return process, process.stdout.readline().strip()


def owner(folder, **kwargs):
    lock = RunLock(str(folder), **kwargs)
    found = lock.take()
    lock.release()
    return found


@pytest.fixture
def held(tmp_path):
    process, said = hold(tmp_path)
    assert said == "free"
    yield process
    process.kill()
    process.wait()


def test_a_folder_is_had_once_and_the_second_is_told_by_whom(tmp_path, held):
    assert owner(tmp_path)["pid"] == held.pid
    assert hold(tmp_path)[1] == str(held.pid)
    with pytest.raises(ConfigError) as caught:
        run_lock(tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path), f"process {held.pid} on", "Name another OUTPUT_DIR", str(tmp_path / "run.lock")):
        assert part in message
    held.stdin.close()
    held.wait()
    assert not (tmp_path / "run.lock").exists(), "a process that ends removes it"
    assert owner(tmp_path) == {}


def test_a_killed_process_holds_nothing_though_its_workers_live(tmp_path, held):
    held.kill()
    held.wait()
    assert (tmp_path / "run.lock").exists()
    start = time.monotonic()
    assert owner(tmp_path) == {} and time.monotonic() - start < module.PATIENCE


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that knows no locks, as network file systems may be mounted."""

    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "lockf", refuse)


def test_without_locks_processes_of_this_system_are_looked_up(tmp_path, held, no_locks):
    assert owner(tmp_path)["pid"] == held.pid
    held.kill()
    held.wait()
    assert owner(tmp_path) == {}


def test_a_process_id_that_was_given_again_is_not_the_owner(tmp_path, held, no_locks):
    content = json.loads((tmp_path / "run.lock").read_text())
    held.kill()
    held.wait()
    content.update(pid=os.getppid(), started=1)  # lives, but was started at another time
    (tmp_path / "run.lock").write_text(json.dumps(content))
    assert owner(tmp_path) == {}


@pytest.mark.parametrize("locks", [True, False])
def test_a_run_of_another_machine_is_seen_by_its_signs_of_life(tmp_path, locks, monkeypatch, request):
    """Locks of network file systems may be those of each machine alone."""
    process, said = hold(tmp_path)
    if not locks:
        request.getfixturevalue("no_locks")
    else:  # a lock that the other machine's does not hinder
        monkeypatch.setattr(module, "_lock", lambda file: True)
    monkeypatch.setattr(module, "_system", lambda: {"host": "other", "boot": "another", "space": ""})
    assert said == "free" and owner(tmp_path, patience=60.0)["pid"] == process.pid
    process.kill()
    process.wait()
    start = time.monotonic()
    assert owner(tmp_path, patience=1.0) == {} and time.monotonic() - start > 1, "its signs stopped"


@pytest.mark.parametrize("content", ["", "{", "[]", "\0" * 50, '{"pid": "x"}', '{"boot": null}'])
def test_a_damaged_lock_file_blocks_nobody(tmp_path, content):
    (tmp_path / "run.lock").write_text(content)
    assert owner(tmp_path, patience=0.2) == {}


def test_a_folder_that_was_removed_and_made_again_is_locked_again(tmp_path):
    folder = tmp_path / "run"
    for _ in range(2):
        folder.mkdir()
        run_lock(folder)
        run_lock(folder)
        assert hold(folder)[1] == str(os.getpid())
        (folder / "run.lock").unlink()
        folder.rmdir()


def test_the_same_job_twice_is_refused_before_anything_is_changed(data, tmp_path):
    config = write_config(tmp_path / "run.yaml", run_config(data, tmp_path / "out", SOLVER__MAX_ITER=1))
    (tmp_path / "out").mkdir()
    process, _ = hold(tmp_path / "out")
    try:
        before = sorted(os.listdir(tmp_path / "out"))
        for more in ([], ["--resume"]):
            check_refused("tools/train_net.py", ["--config-file", config, *more], [tmp_path / "out", process.pid])
        assert sorted(os.listdir(tmp_path / "out")) == before == ["run.lock"]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    code, text = run_program("tools/train_net.py", "--config-file", config)
    assert code == 0 and (tmp_path / "out/model_final.pth").is_file(), text[-2000:]


def test_an_evaluation_beside_a_running_training_is_not_hindered(data, tmp_path):
    keys = {"SOLVER__MAX_ITER": 1, "DATASETS__TEST": ["day"]}
    config = write_config(tmp_path / "run.yaml", run_config(data, tmp_path / "out", **keys))
    assert run_program("tools/train_net.py", "--config-file", config, "DATASETS.TEST", "()")[0] == 0
    weights = ["MODEL.WEIGHTS", tmp_path / "out/model_final.pth", "OUTPUT_DIR", tmp_path / "other"]
    Path(tmp_path / "other").mkdir()
    process, _ = hold(tmp_path / "other")
    try:
        code, text = run_program("tools/train_net.py", "--config-file", config, "--eval-only", *weights)
        assert code == 0, text[-2000:]
    finally:
        process.kill()
        process.wait()
