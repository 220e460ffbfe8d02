"""Damaged inputs through the real programs: each ends with one line. Which damage is told how: the tables elsewhere.

Those are ``test_faults_configs.py``, ``data/test_faults_*.py`` and ``engine/test_faults_weights.py``.
"""

import json
import os
import pickle

import pytest
import torch
from PIL import Image

from helpers.data import refusal, start_tool
from helpers.faults import DAMAGED, UNUSUAL, check_refused, damage, picture, pixel_keys, run_program, save_new_detector

pytestmark = pytest.mark.slow

TRAIN, CHECK, PREDICT, EXPORT = "tools/train_net.py", "datasets/check.py", "tools/predict.py", "tools/export.py"
VISUALIZE, CONTEXT, REPORT = "tools/visualize_pseudo_boxes.py", "tools/show_context.py", "tools/report.py"
MIC = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"]}


class Runs:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self):
        return open, ("was_run", "w")


@pytest.mark.parametrize("program", [TRAIN, CHECK])
def test_configs_and_annotations(scene, program):
    extra = ["--workers", 1] if program == CHECK else []
    check_refused(program, ["--config-file", scene.config(), *extra, "SOLVER.MAX_ITR", 3], ["SOLVER.MAX_ITR"])
    (scene.root / "text.yaml").write_text("MODEL: {DEVICE: [}\n")
    check_refused(program, ["--config-file", scene.root / "text.yaml", *extra], ["text.yaml, line 1", "YAML"])
    content = json.loads(scene.json.read_text())
    content["annotations"][0]["bbox"] = [1, 2, 3]
    scene.json.write_text(json.dumps(content))
    check_refused(program, ["--config-file", scene.config(), *extra], ["source/train.json", "annotation 1 "])
    scene.json.write_text("[1, ")
    check_refused(program, ["--config-file", scene.config(), *extra], ["source/train.json"])


def images(scene, folder, split="train"):
    return [scene.root / folder / f"{split}_{i}.png" for i in range({"train": 8, "val": 4}[split])]


@pytest.mark.parametrize("program", [TRAIN, CHECK])
def test_images_of_the_source_and_label_maps(scene, program):
    extra = ["--workers", 1] if program == CHECK else []
    pixels = scene.config("pixels.yaml", **pixel_keys(scene.root))
    for folder, config in (("source/labels", pixels), ("source/images", scene.config())):
        for file in images(scene, folder):
            damage(file, DAMAGED["truncated"][0])
        check_refused(program, ["--config-file", config, *extra], [f"{folder}/train_", "cannot"])


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_the_target_whoever_reads_them(scene, workers):
    """A loader's worker process sends a traceback as its message."""
    save_new_detector(scene)
    for split in ("train", "val"):
        for file in images(scene, "target/images", split):
            damage(file, DAMAGED["text"][0])
    args = ["--config-file", scene.config(DATALOADER__NUM_WORKERS=workers, **MIC)]
    check_refused(TRAIN, args, ["target/images/train_", "cannot"])
    args = ["--config-file", scene.config(DATALOADER__NUM_WORKERS=workers), "--eval-only"]
    check_refused(TRAIN, [*args, "MODEL.WEIGHTS", scene.root / "good.pth"], ["target/images/val_", "cannot"])


def test_weights_in_every_program_that_loads_them(scene, monkeypatch):
    monkeypatch.chdir(scene.root)
    (scene.root / "page.pth").write_text("<html>404 Not Found</html>")
    config, mic = ["--config-file", scene.config("plain.yaml")], ["--config-file", scene.config("mic.yaml", **MIC)]
    output, weights = ["--output", scene.root / "out"], ["MODEL.WEIGHTS", "page.pth"]
    calls = [
        (TRAIN, [*config, *weights]),
        (TRAIN, [*config, "--eval-only", *weights]),
        (PREDICT, [*config, *output, "--input", scene.image, *weights]),
        (VISUALIZE, [*mic, *output, "--weights", "page.pth"]),
        (EXPORT, [*mic, "--output", scene.root / "out.pth", *weights]),
        (CONTEXT, [*config, *output, "--weights", "x=page.pth"]),
    ]
    for program, args in calls:
        check_refused(program, args, ["page.pth", "damaged"])


def test_an_output_folder_that_cannot_be_made_is_named(scene):
    (scene.root / "a_file").write_text("")
    args = ["--config-file", scene.config(), "OUTPUT_DIR", scene.root / "a_file" / "run"]
    check_refused(TRAIN, args, ["OUTPUT_DIR", "a_file"])


@pytest.mark.parametrize(
    "inputs, parts",
    [
        (["gone.png"], ["--input", "gone.png"]),
        (["source/train.json"], ["--input", "train.json"]),
        (["empty"], ["--input", "empty"]),
    ],
)
def test_inputs_of_a_prediction_are_named(scene, monkeypatch, inputs, parts):
    monkeypatch.chdir(scene.root)
    (scene.root / "empty").mkdir(exist_ok=True)
    args = ["--config-file", scene.config(), "--output", scene.root / "found", "--input", *inputs]
    check_refused(PREDICT, args, parts)


def test_prediction_skips_and_names_what_it_cannot_read_and_reads_the_rest(scene):
    save_new_detector(scene)
    inputs = scene.root / "inputs"
    inputs.mkdir()
    unreadable = [name for name in DAMAGED if callable(DAMAGED[name][0]) and name != "another size"]
    for name in unreadable:
        (inputs / f"{name}.png").write_bytes(DAMAGED[name][0](scene.image.read_bytes()))
    args = ["--config-file", scene.config(), "--output", scene.root / "found", "--input", inputs]
    check_refused("tools/predict.py", [*args, "MODEL.WEIGHTS", scene.root / "good.pth"], ["none of the 6"])
    for name, make in UNUSUAL.items():
        (inputs / f"{name}.png").write_bytes(make())
    code, text = run_program("tools/predict.py", *args, "MODEL.WEIGHTS", scene.root / "good.pth")
    assert code == 0 and f"{len(UNUSUAL)} images" in text and "Traceback" not in text, text[-3000:]
    assert all(f"inputs/{name}.png: " in text for name in unreadable)
    pictures = [p.name for p in (scene.root / "found/pictures").iterdir()]
    assert sorted(pictures) == sorted(f"{name}.png.jpg" for name in UNUSUAL)


def test_prediction_skips_whatever_cannot_be_used(scene, monkeypatch):
    """A strip that is resized to a side of 0, a bomb, a pipe, a missing link: each is named, the rest is predicted."""
    save_new_detector(scene)
    inputs = scene.root / "inputs"
    inputs.mkdir()
    (inputs / "strip.png").write_bytes(picture("RGB", (3000, 4)))
    (inputs / "bomb.png").write_bytes(picture("RGB", (1500, 20)))
    (inputs / "gone.png").symlink_to(inputs / "nowhere")
    os.mkfifo(inputs / "pipe.png")
    (inputs / "sound.png").write_bytes(picture("RGB"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 14_000)
    args = ["--config-file", scene.config(INPUT__MIN_SIZE_TEST=64, INPUT__MAX_SIZE_TEST=96), "--input", inputs]
    args += ["--output", scene.root / "found", "--format", "pictures,csv", "MODEL.WEIGHTS", scene.root / "good.pth"]
    code, text = run_program("tools/predict.py", *args)
    assert code == 0 and "1 images" in text and "4 skipped" in text and "Traceback" not in text, text[-3000:]
    assert "strip.png: is 3000 x 4 pixels" in text and "96 x 0" in text
    assert "pipe.png: is not an ordinary file" in text and "gone.png: is missing" in text and "bomb.png: " in text
    assert [p.name for p in (scene.root / "found/pictures").iterdir()] == ["sound.png.jpg"]


@pytest.mark.parametrize("name", ["code.pth", "code.pkl"])
def test_code_is_run_where_the_file_is_trusted(scene, monkeypatch, name):
    monkeypatch.chdir(scene.root)
    state = save_new_detector(scene)
    content = state if name.endswith("pth") else {k: v.numpy() for k, v in state.items()}
    content = {"model": content, "x": Runs(), "__author__": "x"}
    if name.endswith("pth"):
        torch.save(content, name)
    else:
        (scene.root / name).write_bytes(pickle.dumps(content))
    args = ["--config-file", scene.config(), "--output", scene.root / "out.pth", "MODEL.WEIGHTS", name]
    code, text = run_program(EXPORT, "--trust-checkpoint", *args)
    assert code == 0, text[-3000:]
    assert (scene.root / "was_run").exists()
    (scene.root / "was_run").unlink()


def test_predicting_with_another_number_of_classes_or_a_backbone_alone_is_refused(scene):
    """Warm starts may; predictions would be random."""
    config = scene.config()
    state = save_new_detector(scene)
    torch.save({k: v for k, v in state.items() if k.startswith("backbone.")}, scene.root / "backbone.pth")
    args = ["--config-file", config, "--output", scene.root / "out.pth"]
    wrong = ["MODEL.WEIGHTS", scene.root / "good.pth", "MODEL.ROI_HEADS.NUM_CLASSES", 4]
    check_refused(EXPORT, [*args, *wrong], ["good.pth", "MODEL.ROI_HEADS.NUM_CLASSES", "roi_heads.box_predictor"])
    check_refused(EXPORT, [*args, "MODEL.WEIGHTS", scene.root / "backbone.pth"], ["backbone.pth", "lacks"])


def test_no_weights_at_all(scene):
    check_refused(EXPORT, ["--config-file", scene.config(), "--output", scene.root / "x.pth"], ["MODEL.WEIGHTS"])


# --------------------------------------------------------------------------------------- run folders


LINE = json.dumps({"iteration": 19, "total_loss": 1.0})
RUNS = {
    "gone": (None, ["gone"]),
    "without metrics": ({}, ["metrics.json"]),
    "empty metrics": ({"metrics.json": b""}, ["metrics.json", "no line"]),
    "binary metrics": ({"metrics.json": bytes(range(256))}, ["metrics.json", "no line"]),
    "metrics of lists": ({"metrics.json": b"[1, 2]\n3\nnull\n"}, ["metrics.json", "no line"]),
    "metrics without steps": ({"metrics.json": b'{"total_loss": 1.0}\n'}, ["metrics.json", "no line"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_that_tells_nothing_is_named(tmp_path, name):
    files, parts = RUNS[name]
    if files is not None:
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
    check_refused(REPORT, [tmp_path / name, "--output", tmp_path / "r.html"], [name, *parts])


TOLD = {
    "config.yaml": [b"\x00\x01", b"SOLVER: [1", b"SEED: !!python/object/apply:os.mkdir [was_run]\n", b"- 1", b""],
    "log.txt": [b"\xff\xfe\x00", b"Command line arguments: Namespace(x=open('was_run', 'w'))"],
    "metrics.json": [
        f"{LINE}\n{second}".encode()
        for second in (
            "{'cut",
            '{"iteration": 1e999}',
            '{"iteration": 39, "a": [1], "total_loss": null}',
            '{"iteration": 39, "bbox/AP": "x"}',
        )
    ],
}


@pytest.mark.parametrize("file, content", [(f, c) for f, contents in TOLD.items() for c in contents])
def test_a_report_is_made_of_what_a_damaged_run_still_tells(tmp_path, monkeypatch, file, content):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text(LINE)
    (run / file).write_bytes(content)
    code, text = run_program(REPORT, run, "--output", tmp_path / "r.html")
    assert code == 0 and "Traceback" not in text, text
    assert (tmp_path / "r.html").stat().st_size > 1000 and not (tmp_path / "was_run").exists()


# --------------------------------------------------------------- as users start them: other processes


def test_real_processes_end_with_the_same_line_and_exit_code_1(scene):
    (scene.root / "bad.pkl").write_bytes(pickle.dumps({"model": {}, "x": Runs()}))
    config = ["--config-file", scene.config("processes.yaml")]
    calls = {
        "names io.open": ("train_net.py", *config, "MODEL.WEIGHTS", "bad.pkl"),
        "there is no checkpoint": ("export.py", *config, "--output", "x.pth", "MODEL.WEIGHTS", "gone.pth"),
        "metrics.json": ("report.py", "source"),
    }
    processes = {part: start_tool(*call, cwd=scene.root) for part, call in calls.items()}
    for part, process in processes.items():
        assert part in refusal(process)
    assert not (scene.root / "was_run").exists()
