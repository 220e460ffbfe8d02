"""The one atomic writer, and every writer that uses it on a disk that is full."""

import contextlib
import os

import numpy as np
import pytest
import torch

from helpers.processes import small_files
from mic_det.checkpoint.export import write_weights
from mic_det.checkpoint.storage import write_atomically
from mic_det.engine.non_finite import NonFiniteHandler
from mic_det.errors import DataError
from mic_det.evaluation.coco import DetectionEvaluator
from mic_det.inference.media import write_picture
from mic_det.utils.atomic_files import disk_error, whole_file, write_whole
from mic_det.utils.outputs import Outputs
from mic_det.utils.parallel import write_png

LARGE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)  # does not compress


def test_content_is_on_the_disk_before_the_name_is_and_the_name_after(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(handle):
        calls.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def noted_replace(a, b):
        calls.append("replace")
        replace(a, b)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with whole_file(tmp_path / "a.png") as temporary:
        temporary.write_bytes(b"new")
        assert temporary.suffix == ".png" and not (tmp_path / "a.png").exists()
    assert calls == [str(temporary), "replace", str(tmp_path)]
    assert os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == b"new"


def test_a_process_that_dies_while_it_writes_leaves_the_old_file(tmp_path):
    write_whole(tmp_path / "a", lambda f: f.write(b"old"))
    child = os.fork()
    if not child:
        write_whole(tmp_path / "a", lambda f: (f.write(b"half"), f.flush(), os._exit(0)))
    os.waitpid(child, 0)
    assert (tmp_path / "a").read_bytes() == b"old"


def test_processes_that_write_the_same_file_do_not_mix(tmp_path):
    contents = [bytes([i]) * 300_000 for i in range(4)]
    write_whole(tmp_path / "a", lambda f: f.write(contents[0]))
    children = []
    for content in contents:
        children.append(os.fork())
        if not children[-1]:
            with contextlib.suppress(BaseException):
                for _ in range(20):
                    write_whole(tmp_path / "a", lambda f, content=content: f.write(content))
                os._exit(0)
            os._exit(1)
    seen = set()
    running = list(children)
    while running:
        seen.add((tmp_path / "a").read_bytes())
        pid, status = os.waitpid(running[0], os.WNOHANG)
        if pid:
            assert status == 0
            running.pop(0)
    assert seen <= set(contents) and os.listdir(tmp_path) == ["a"]


def test_the_error_of_the_disk_is_found_behind_others():
    try:
        try:
            raise OSError(28, "full")
        except OSError:
            raise RuntimeError from None
    except RuntimeError as e:
        assert disk_error(e).errno == 28
    assert disk_error(RuntimeError()) is None


def write_results(file):
    evaluator = DetectionEvaluator.__new__(DetectionEvaluator)  # its set is of no matter here
    evaluator._output_dir, evaluator._metadata = str(file.parent), {}
    evaluator._write_results([{"category_id": 1, "score": 0.5}] * 1000)


def export_state(file):
    with Outputs(file.parent, "export").writing(file.name) as temporary:
        write_weights({"w": torch.rand(5000)}, temporary)


def write_report_of_nan(file):
    check = NonFiniteHandler.__new__(NonFiniteHandler)
    check.output_dir = str(file.parents[1])
    check._write(3, None, [([{"image": torch.rand(3, 40, 40)}], {})], {})


WRITERS = {
    "a": lambda file: write_whole(file, lambda f: f.write(LARGE.tobytes())),
    "last_checkpoint": lambda file: write_atomically(str(file), lambda f: torch.save(torch.rand(5000), f)),
    "a.jpg": lambda file: write_picture(file, LARGE),
    "a.png": lambda file: write_png(file, LARGE),
    "coco_instances_results.json": write_results,
    "model.pth": export_state,
    "model.safetensors": export_state,
    "non_finite/iteration_0000003_rank0.pth": write_report_of_nan,
}


@pytest.mark.parametrize("name", WRITERS)
def test_on_a_full_disk_every_file_is_the_old_one(name, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    WRITERS[name](file)
    before = file.read_bytes()
    assert len(before) > 4000
    failed = pytest.raises((OSError, DataError, RuntimeError), match="cannot write|too large")
    with small_files(2000), failed if name != "non_finite/iteration_0000003_rank0.pth" else contextlib.nullcontext():
        WRITERS[name](file)  # the report of a NaN must not hide it: it only warns
    assert file.read_bytes() == before
    assert {p.name for p in file.parent.iterdir()} <= {file.name, ".mic_det_files"}
