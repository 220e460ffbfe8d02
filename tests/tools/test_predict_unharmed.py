"""tools/predict.py: nothing that was found is lost, whatever ends it, and a bad image costs itself alone."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.data import run_tool_here, write_image
from helpers.faults import Scene, check_refused, run_program, write_scene
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.engine.setup import load_config
from mic_det.engine.trainer import MICTrainer
from mic_det.inference.predictor import Predictor
from mic_det.inference.results import PredictionFiles

pytestmark = pytest.mark.slow

PREDICT = "tools/predict.py"
FORMATS = ["--format", "pictures,coco,csv", "--confidence-threshold", 0.1]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = tmp_path_factory.mktemp("predict")
    write_scene(root)
    scene = Scene(root)
    torch.manual_seed(0)
    cfg = load_config(scene.config())
    MICCheckpointer(MICTrainer.build_model(cfg), str(root)).save("model")
    return scene


def arguments(scene, inputs, output, *more):
    weights = ["MODEL.WEIGHTS", scene.root / "model.pth"]
    return ["--config-file", scene.config(), "--input", inputs, "--output", output, *FORMATS, *more, *weights]


def images(folder, count):
    rng = np.random.default_rng(0)
    for i in range(count):
        write_image(Path(folder) / f"{i}.png", rng.integers(0, 255, (64, 96, 3)).astype(np.uint8))
    return folder


def contents(output):
    """Names of the images in the COCO file; both files must be whole and tell the same."""
    whole = json.loads((output / "predictions.json").read_text())
    bare = json.loads((output / "coco_instances_results.json").read_text())
    with open(output / "predictions.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert len(bare) == len(whole["annotations"]) == len(rows)
    return [x["file_name"] for x in whole["images"]]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, "error"])
def test_what_was_found_is_written_on_every_way_out(scene, tmp_path, monkeypatch, end):
    normal, seen = Predictor.__call__, []

    def third(self, rgb):
        seen.append(rgb)
        if len(seen) == 3:
            if end == "error":
                raise SystemExit(1)  # which is no fault of an image
            os.kill(os.getpid(), end)
            time.sleep(5)
        return normal(self, rgb)

    monkeypatch.setattr(Predictor, "__call__", third)
    code, text = run_program(PREDICT, *arguments(scene, images(tmp_path / "in", 5), tmp_path / "out"))
    assert code == (1 if end == "error" else 128 + end), text[-2000:]
    assert contents(tmp_path / "out") == ["0.png", "1.png"] and "Traceback" not in text
    # and the same command once more replaces its own files
    code, text = run_program(PREDICT, *arguments(scene, tmp_path / "in", tmp_path / "out"))
    assert code == 0 and len(contents(tmp_path / "out")) == 5, text[-2000:]


def test_files_grow_while_it_works(scene, tmp_path, monkeypatch):
    """So that SIGKILL and a power failure leave them too."""
    normal, found = Predictor.__call__, []

    def look(self, rgb):
        done = tmp_path / "out/predictions.json"
        found.append(len(contents(tmp_path / "out")) if done.is_file() else 0)
        return normal(self, rgb)

    monkeypatch.setattr(Predictor, "__call__", look)
    monkeypatch.setattr(PredictionFiles, "PERIOD", 0.0)
    monkeypatch.setattr(PredictionFiles, "SHARE", 0)
    run_tool_here(
        "predict.py", *arguments(scene, images(tmp_path / "in", 4), tmp_path / "out"), monkeypatch=monkeypatch
    )
    assert found == [0, 1, 2, 3]


def test_writing_takes_a_small_share_of_the_time(monkeypatch):
    """With a clock of our own: each writing costs 3 seconds, an image 1."""
    now, writes = [0.0], []
    monkeypatch.setattr("mic_det.inference.results.time.monotonic", lambda: now[0])

    class Slow:
        def coco(self):
            writes.append(now[0])
            now[0] += 3.0
            return {}

        csv = None

    files = PredictionFiles(Slow(), None, ["coco", "pictures"])
    for _ in range(1000):
        now[0] += 1.0
        files.update()
    assert 5 < writes[0] < 8 and 14 < len(writes) < 18, writes
    assert min(b - a for a, b in zip(writes, writes[1:])) > 60


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ZeroDivisionError("x"), FloatingPointError("nan")])
def test_a_bad_image_costs_itself_alone(scene, tmp_path, monkeypatch, error):
    normal, seen = Predictor.__call__, []

    def fail(self, rgb):
        seen.append(rgb)
        if len(seen) == 2:
            raise error
        return normal(self, rgb)

    monkeypatch.setattr(Predictor, "__call__", fail)
    code, text = run_program(PREDICT, *arguments(scene, images(tmp_path / "in", 3), tmp_path / "out"))
    assert code == 0 and contents(tmp_path / "out") == ["0.png", "2.png"], text[-2000:]
    assert "1 skipped" in text and f"in/1.png: {type(error).__name__}: {error}" in text


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_pipes_and_sockets_among_the_images_are_named_and_skipped(scene, tmp_path):
    images(tmp_path / "in", 2)
    os.mkfifo(tmp_path / "in/pipe.png")
    os.mkfifo(tmp_path / "in/pipe.mp4")
    (tmp_path / "in/device.png").symlink_to("/dev/zero")
    code, text = run_program(PREDICT, *arguments(scene, tmp_path / "in", tmp_path / "out"))
    assert code == 0 and contents(tmp_path / "out") == ["0.png", "1.png"], text[-2000:]
    assert "3 skipped" in text and all(f"in/{n}: " in text for n in ("pipe.png", "pipe.mp4", "device.png"))
    check_refused(PREDICT, arguments(scene, tmp_path / "in/pipe.png", tmp_path / "out2"), ["none of the 1"])


# ------------------------------------------------------------------------------ inputs and outputs


@pytest.mark.parametrize("output", ["in", "in/found", "in/../in/pictures"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_the_output_is_never_inside_the_input(scene, tmp_path, output, more):
    images(tmp_path / "in", 1)
    check_refused(PREDICT, arguments(scene, tmp_path / "in", tmp_path / output, *more), ["--output", "read by predict"])
    assert os.listdir(tmp_path / "in") == ["0.png"]


def test_pictures_of_an_earlier_call_are_no_input_of_a_later_one_in_the_same_place(scene, tmp_path):
    images(tmp_path / "in", 1)
    assert run_program(PREDICT, *arguments(scene, tmp_path / "in", tmp_path / "out"))[0] == 0
    again = arguments(scene, tmp_path / "out/pictures", tmp_path / "out")
    check_refused(PREDICT, again, ["out/pictures", "read by predict"])


def test_files_that_predict_did_not_make_are_refused_before_time_is_spent(scene, tmp_path, monkeypatch):
    images(tmp_path / "in", 1)
    (tmp_path / "out/pictures").mkdir(parents=True)
    (tmp_path / "out/pictures/0.png.jpg").write_bytes(b"mine")
    args = arguments(scene, tmp_path / "in", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "__init__", lambda *a: pytest.fail("the model was loaded"))
        check_refused(PREDICT, args, ["out/pictures/0.png.jpg", "did not make it", "--overwrite"])
    assert (tmp_path / "out/pictures/0.png.jpg").read_bytes() == b"mine" and len(
        list((tmp_path / "out").iterdir())
    ) == 1
    code, text = run_program(PREDICT, *arguments(scene, tmp_path / "in", tmp_path / "out", "--overwrite"))
    assert code == 0 and (tmp_path / "out/pictures/0.png.jpg").read_bytes() != b"mine", text


def test_a_kill_leaves_whole_files(scene, tmp_path):
    """SIGKILL in the middle of many images, in a process of its own."""
    images(tmp_path / "in", 400)
    code = (
        "import runpy, sys; from mic_det.inference.results import PredictionFiles as F; F.PERIOD = 0.05; F.SHARE = 0; "
        f"sys.argv = sys.argv[1:]; runpy.run_path({str(Path(__file__).resolve().parents[2] / PREDICT)!r}, "
        "run_name='__main__')"
    )
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        PREDICT,
        *arguments(scene, tmp_path / "in", tmp_path / "out"),
    ]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 600
    while not (tmp_path / "out/predictions.csv").is_file() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.5)
    assert process.poll() is None
    process.kill()
    process.wait()
    whole = json.loads((tmp_path / "out/predictions.json").read_text())
    assert 0 < len(whole["images"]) < 400
    json.loads((tmp_path / "out/coco_instances_results.json").read_text())
