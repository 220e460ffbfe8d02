"""Folders that cannot be written: an evaluation works without, a training says so in one line."""

import contextlib
import logging
import math
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from helpers.data import (
    forget_registered_sets,
    load,
    load_with_sets,
    tiny_config,
    write_coco,
    write_image,
    write_two_images,
)
from helpers.faults import Scene, check_refused, run_program, write_scene
from helpers.models import tiny_cfg
from mic_det.data.run_sets import check_datasets
from mic_det.engine.output_folder import with_output
from mic_det.errors import DataError

pytestmark = pytest.mark.slow

TRAIN, PREDICT, EXPORT = "tools/train_net.py", "tools/predict.py", "tools/export.py"


@pytest.fixture(scope="module")
def scene():
    """Data and the weights of the small detector, in a folder that every user may read."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    write_scene(root)
    with forget_registered_sets():
        state = build_model(load(root, tiny_config(root))).state_dict()
    torch.save({"model": state}, root / "good.pth")
    scene = Scene(root)
    scene.state = state
    yield scene
    shutil.rmtree(root)


@contextlib.contextmanager
def without_rights(folder):
    """Nothing in a folder may be written; root, who may anyway, acts as nobody meanwhile."""
    paths = [folder, *folder.rglob("*")]
    modes = [p.stat().st_mode for p in paths]
    for p in paths:
        p.chmod(0o555 if p.is_dir() else 0o444)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        for p, mode in zip(paths, modes):
            p.chmod(mode)


def files(folder):
    """Their times; not of run.lock, which this process, in which the training was, goes on writing to."""
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != "run.lock"}


def test_an_evaluation_of_a_read_only_run(scene):
    output = scene.root / "store"
    config = scene.config(OUTPUT_DIR=str(output), SOLVER__MAX_ITER=1)
    code, text = run_program(TRAIN, "--config-file", config, "DATASETS.TEST", "()")
    assert code == 0, text[-3000:]
    before = files(output)
    with without_rights(output):
        code, text = run_program(TRAIN, "--config-file", config, "--eval-only", "--resume")
        assert code == 0 and "Traceback" not in text, text[-3000:]
        check_refused(TRAIN, ["--config-file", config, "--resume"], ["OUTPUT_DIR", str(output), "cannot be written"])
    assert "Evaluation results for bbox" in text and "writes no log" in text and "model_final.pth" in text
    assert files(output) == before


@pytest.mark.parametrize("name", ["config.yaml", "log.txt", "metrics.json"])
def test_a_folder_that_is_occupied(scene, name):
    output = scene.root / f"occupied_{name}"
    (output / name).mkdir(parents=True)
    check_refused(TRAIN, ["--config-file", scene.config(OUTPUT_DIR=str(output))], ["OUTPUT_DIR", name])


def test_a_file_in_the_place_of_the_folder_or_above_it(scene):
    (scene.root / "file").write_text("x")
    for output in ("file", "file/below"):
        config = scene.config(OUTPUT_DIR=str(scene.root / output))
        check_refused(TRAIN, ["--config-file", config], ["OUTPUT_DIR", "cannot be made"])


def test_results_of_an_evaluation_from_python_are_kept_where_the_folder_is_not_there_yet(tmp_path):
    """MICTrainer.test(cfg, model) is called without the programs' setup, which makes it."""
    cfg = tiny_cfg(OUTPUT_DIR=str(tmp_path / "not/yet"))
    with with_output(cfg) as found:
        assert found is cfg and os.path.isdir(cfg.OUTPUT_DIR)
    (tmp_path / "file").write_text("")
    with with_output(tiny_cfg(OUTPUT_DIR=str(tmp_path / "file/x"))) as found:
        assert os.path.isdir(found.OUTPUT_DIR)
    assert not os.path.exists(found.OUTPUT_DIR)


def test_a_folder_in_the_place_of_a_file_of_results(scene):
    """A kind of fault that is not looked for beforehand ends with one line too."""
    output = scene.root / "results"
    (output / "inference/target_val/coco_instances_results.json").mkdir(parents=True)
    args = [
        "--config-file",
        scene.config(OUTPUT_DIR=str(output)),
        "--eval-only",
        "MODEL.WEIGHTS",
        scene.root / "good.pth",
    ]
    check_refused(TRAIN, args, ["coco_instances_results.json", "cannot be used"])


SPOILT = {"NaN": math.nan, "infinity": math.inf}


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("program", ["train", "evaluate", "resume", "predict", "export"])
def test_weights_that_are_not_finite_are_refused_by_name(scene, program, kind):
    name = "roi_heads.box_head.fc1.bias"
    state = {k: v.clone() for k, v in scene.state.items()}
    state[name][3] = SPOILT[kind]
    file = scene.root / "spoilt.pth"
    torch.save({"model": state}, file)
    output = scene.root / f"out_{program}"
    config = ["--config-file", scene.config(OUTPUT_DIR=str(output))]
    weights = ["MODEL.WEIGHTS", str(file)]
    if program == "resume":
        output.mkdir(exist_ok=True)
        shutil.copy(file, output / "model_final.pth")
        (output / "last_checkpoint").write_text("model_final.pth")
        file, weights = output / "model_final.pth", []
    calls = {
        "train": (TRAIN, [*config, *weights]),
        "evaluate": (TRAIN, [*config, "--eval-only", *weights]),
        "resume": (TRAIN, [*config, "--eval-only", "--resume"]),
        "predict": (PREDICT, [*config, "--input", scene.image, "--output", output / "pictures", *weights]),
        "export": (EXPORT, [*config, "--output", output / "x.pth", *weights]),
    }
    told = check_refused(*calls[program], [name, str(file), "NaN or infinite"])
    assert "\n" not in told and not (output / "x.pth").exists()


def test_weights_that_overflow_the_models_format(scene):
    state = {k: v.double() for k, v in scene.state.items()}
    state["roi_heads.box_head.fc1.bias"][0] = 1e300
    torch.save({"model": state}, scene.root / "double.pth")
    args = [
        "--config-file",
        scene.config(),
        "--output",
        scene.root / "x.pth",
        "MODEL.WEIGHTS",
        scene.root / "double.pth",
    ]
    check_refused(EXPORT, args, ["double.pth", "roi_heads.box_head.fc1.bias"])


# ---------------------------------------------------------------------------------- names in a set


def test_images_outside_their_folder_are_allowed_and_reported_once(tmp_path, caplog):
    write_two_images(tmp_path)
    shutil.move(tmp_path / "images/sub/b.png", tmp_path / "b.png")
    names = [("a.png", 60, 40), ("../b.png", 60, 40), (str(tmp_path / "b.png"), 60, 40)]
    boxes = [(i, 0, (1, 1, 10, 10)) for i in range(3)]
    write_coco(tmp_path / "set.json", names, boxes, classes=("car", "bus"))
    with forget_registered_sets(), caplog.at_level(logging.WARNING):
        cfg = load_with_sets(tmp_path, {"t_train": (tmp_path / "set.json", tmp_path / "images")})
        for _ in range(2):
            check_datasets(cfg)
    (told,) = [r.getMessage() for r in caplog.records if "outside its folder" in r.getMessage()]
    assert "2 of 3 images" in told and str(tmp_path / "b.png") in told and "set.json" in told


@pytest.mark.parametrize("bad", ["a\0.png", "\ud800.png"], ids=["NUL", "surrogate"])
@pytest.mark.parametrize("what", ["image", "class"])
def test_names_that_no_file_can_have(tmp_path, what, bad):
    write_image(tmp_path / "images/a.png", torch.zeros(40, 60, 3, dtype=torch.uint8).numpy())
    content = write_coco(tmp_path / "x.json", [("a.png", 60, 40)], [(0, 0, (1, 1, 9, 9))], classes=("car", "bus"))
    entry = content["images"][0] if what == "image" else content["categories"][0]
    entry["file_name" if what == "image" else "name"] = bad
    import json

    (tmp_path / "set.json").write_text(json.dumps(content))
    with forget_registered_sets(), pytest.raises(DataError, match="set.json") as caught:
        check_datasets(load_with_sets(tmp_path, {"t_train": (tmp_path / "set.json", tmp_path / "images")}))
    str(caught.value).encode()
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)
