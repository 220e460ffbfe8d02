"""Damaged files of weights and run folders through the real programs: each ends with one line that names them."""

import collections
import json
import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import save_file

from helpers.data import forget_registered_sets, load, refusal, start_tool, tiny_config
from helpers.faults import Scene, check_refused, run_program, write_scene

TRAIN, PREDICT, EXPORT = "tools/train_net.py", "tools/predict.py", "tools/export.py"
VISUALIZE, CONTEXT, REPORT = "tools/visualize_pseudo_boxes.py", "tools/show_context.py", "tools/report.py"
MIC = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"]}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Data, and the weights of the small detector, as they are and of another size."""
    root = tmp_path_factory.mktemp("weights")
    write_scene(root)
    with forget_registered_sets():
        state = build_model(load(root, tiny_config(root))).state_dict()
    torch.save({"model": state}, root / "good.pth")
    scene = Scene(root)
    scene.state = state
    return scene


class Runs:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self):
        return open, ("was_run", "w")


def write_pickle(file, content):
    file.write_bytes(pickle.dumps(content))


def write_good_pickle(file, state):
    write_pickle(file, {"model": {k: v.numpy() for k, v in state.items()}, "__author__": "x"})


def renamed(state):
    return {f"encoder.{i}": v for i, v in enumerate(state.values())}


def half(state):
    return dict(list(state.items())[: len(state) // 2])


def other_fpn(state):
    return {k: torch.zeros(v.shape[0] + 1, *v.shape[1:]) if "fpn_output" in k else v for k, v in state.items()}


# file name: (how it is written from a good state dict, what the message says beside its name)
FILES = {
    "gone.pth": (None, "MODEL.WEIGHTS"),
    "folder.pth": (lambda f, s: f.mkdir(exist_ok=True), "is a folder"),
    "empty.pth": (lambda f, s: f.write_bytes(b""), "empty"),
    "empty.pkl": (lambda f, s: f.write_bytes(b""), "empty"),
    "empty.safetensors": (lambda f, s: f.write_bytes(b""), "empty"),
    "page.pth": (lambda f, s: f.write_bytes(b"<html>404 Not Found</html>"), "damaged"),
    "page.pkl": (lambda f, s: f.write_bytes(b"<html>404 Not Found</html>"), "damaged"),
    "page.safetensors": (lambda f, s: f.write_bytes(b"<html>404 Not Found</html>"), "damaged"),
    "cut.pth": (lambda f, s: (torch.save({"model": s}, f), f.write_bytes(f.read_bytes()[:5000])), "damaged"),
    "cut.pkl": (lambda f, s: (write_good_pickle(f, s), f.write_bytes(f.read_bytes()[:-5000])), "damaged"),
    "cut.safetensors": (lambda f, s: (save_file(s, f), f.write_bytes(f.read_bytes()[:-5000])), "damaged"),
    "code.pth": (lambda f, s: torch.save({"model": s, "x": Runs()}, f), "names io.open"),
    "code.pkl": (lambda f, s: write_pickle(f, {"model": {"a": np.zeros(3)}, "x": Runs()}), "names io.open"),
    "class.pth": (lambda f, s: torch.save(torch.nn.Linear(2, 2), f), "torch.nn.modules.linear.Linear"),
    "counter.pth": (lambda f, s: torch.save({"model": s, "x": collections.deque()}, f), "collections.deque"),
    "list.pth": (lambda f, s: torch.save([1, 2], f), "list"),
    "number.pth": (lambda f, s: torch.save({"model": {"a": 3}}, f), "'a' is int"),
    "nothing.pth": (lambda f, s: torch.save({"model": {}}, f), "no weights"),
    "results.pth": (lambda f, s: torch.save({"epoch": 3, "accuracy": 0.5}, f), "'epoch' is int"),
    "foreign.pth": (lambda f, s: torch.save({"state_dict": renamed(s)}, f), "0 of"),
    "half.pth": (lambda f, s: torch.save({"model": half(s)}, f), "MODEL.BACKBONE.MIN_MATCHED_KEYS"),
    "fpn.pth": (lambda f, s: torch.save({"model": other_fpn(s)}, f), "backbone.fpn_output"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_weights_that_cannot_be_used_is_named(scene, monkeypatch, name):
    """Each file by one of the programs that load weights, in turn."""
    monkeypatch.chdir(scene.root)
    write, part = FILES[name]
    if write:
        write(scene.root / name, scene.state)
    number = list(FILES).index(name) % 6
    config = ["--config-file", scene.config(**(MIC if number in (3, 4) else {}))]
    output, weights = ["--output", scene.root / "out"], ["MODEL.WEIGHTS", name]
    calls = [
        (TRAIN, [*config, *weights]),
        (TRAIN, [*config, "--eval-only", *weights]),
        (PREDICT, [*config, *output, "--input", scene.image, *weights]),
        (VISUALIZE, [*config, *output, "--weights", name]),
        (EXPORT, [*config, "--output", scene.root / "out.pth", *weights]),
        (CONTEXT, [*config, *output, "--weights", f"x={name}"]),
    ]
    program, args = calls[number]
    told = check_refused(program, args, [name, part])
    assert not (scene.root / "was_run").exists(), "the file's code was run"
    assert ("--trust-checkpoint" in told) == ("it names" in told), "the way out is told where there is one"


@pytest.mark.parametrize("name", ["code.pth", "code.pkl"])
def test_code_is_run_where_the_file_is_trusted(scene, monkeypatch, name):
    monkeypatch.chdir(scene.root)
    content = scene.state if name.endswith("pth") else {k: v.numpy() for k, v in scene.state.items()}
    content = {"model": content, "x": Runs(), "__author__": "x"}
    if name.endswith("pth"):
        torch.save(content, name)
    else:
        write_pickle(scene.root / name, content)
    args = ["--config-file", scene.config(), "--output", scene.root / "out.pth", "MODEL.WEIGHTS", name]
    code, text = run_program(EXPORT, "--trust-checkpoint", *args)
    assert code == 0, text[-3000:]
    assert (scene.root / "was_run").exists()
    (scene.root / "was_run").unlink()


def test_predicting_with_another_number_of_classes_or_a_backbone_alone_is_refused(scene):
    """Warm starts may; predictions would be random."""
    config = scene.config()
    bare = {k: v for k, v in scene.state.items() if k.startswith("backbone.")}
    torch.save({"model": bare}, scene.root / "backbone.pth")
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


ODD = {
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


@pytest.mark.parametrize("file, content", [(f, c) for f, contents in ODD.items() for c in contents])
def test_a_report_is_made_of_what_a_damaged_run_still_tells(tmp_path, monkeypatch, file, content):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text(LINE)
    (run / file).write_bytes(content)
    code, text = run_program(REPORT, run, "--output", tmp_path / "r.html")
    assert code == 0 and "Traceback" not in text, text
    assert (tmp_path / "r.html").stat().st_size > 1000 and not (tmp_path / "was_run").exists()


# ---------------------------------------------------------------- as users start them: other processes


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
