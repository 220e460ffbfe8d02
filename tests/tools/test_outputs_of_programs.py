"""Every program that writes: what it did not make stays, and what it reads is never written to."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.cityscapes import write_cityscapes
from helpers.data import write_image
from helpers.faults import Scene, check_refused, run_program, write_scene
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.data.datasets.foggy import make_foggy_folder
from mic_det.data.minicity import make_minicity
from mic_det.engine.setup import load_config
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import FogError, MinicityError

pytestmark = pytest.mark.slow

MIC = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"]}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    write_scene(root)
    scene = Scene(root)
    torch.manual_seed(0)
    cfg = load_config(scene.config("mic.yaml", **MIC))
    MICCheckpointer(MICTrainer.build_model(cfg), str(root)).save("model")
    return scene


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def export(scene, output, *more, weights="model.pth", config="mic.yaml"):
    config = config if os.path.isabs(config) else scene.root / config
    return ["--config-file", config, "--output", output, *more, "MODEL.WEIGHTS", scene.root / weights]


def test_export_leaves_a_config_of_the_users_that_has_the_weights_name(scene, tmp_path):
    (tmp_path / "mine.yaml").write_text("mine: 1\n")
    before = content(tmp_path)
    line = check_refused("tools/export.py", export(scene, tmp_path / "mine.pth"), ["mine.yaml", "--overwrite"])
    assert "did not make it" in line and content(tmp_path) == before
    assert run_program("tools/export.py", *export(scene, tmp_path / "mine.pth", "--overwrite"))[0] == 0
    assert b"plain Detectron2" in (tmp_path / "mine.yaml").read_bytes()
    # its own files are replaced
    code, text = run_program("tools/export.py", *export(scene, tmp_path / "mine.pth", "--model", "student"))
    assert code == 0, text[-2000:]


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_export_never_writes_to_the_weights_or_the_config_that_it_reads(scene, tmp_path, more):
    shutil.copy(scene.root / "model.pth", tmp_path / "model.pth")
    (tmp_path / "other.yaml").write_text((scene.root / "mic.yaml").read_text())
    before = content(tmp_path)
    onto_itself = export(scene, tmp_path / "model.pth", *more, weights=tmp_path / "model.pth")
    check_refused("tools/export.py", onto_itself, ["model.pth", "read by export"])
    same = export(scene, tmp_path / "other.pth", *more, config=str(tmp_path / "other.yaml"))
    check_refused("tools/export.py", same, ["other.yaml", "read by export"])
    assert content(tmp_path) == before


def test_report_writes_whole_or_not_at_all_and_leaves_others_files(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text(json.dumps({"iteration": 19, "total_loss": 1.0}) + "\n")
    (run / "config.yaml").write_text("SEED: 1\n")
    (tmp_path / "mine.html").write_text("mine")
    check_refused("tools/report.py", [run, "--output", tmp_path / "mine.html"], ["mine.html", "--overwrite"])
    for name in ("metrics.json", "config.yaml"):
        before = (run / name).read_bytes()
        check_refused("tools/report.py", [run, "--output", run / name, "--overwrite"], [name, "read by report"])
        assert (run / name).read_bytes() == before
    args = [run, "--output", tmp_path / "r.html"]
    assert run_program("tools/report.py", *args)[0] == 0
    first = (tmp_path / "r.html").read_bytes()

    def no_space(self, content):
        with open(self, "wb") as f:
            f.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", no_space)
        check_refused("tools/report.py", args, ["r.html", "No space left"])
    assert (tmp_path / "r.html").read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mic_det_files", "mine.html", "r.html", "run"]
    assert run_program("tools/report.py", *args)[0] == 0


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml", "log.txt", "visuals/a.png"])
def test_report_waits_for_no_pipe_in_a_run_folder(tmp_path, name):
    run = tmp_path / "run"
    (run / "visuals").mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({"iteration": 19, "total_loss": 1.0}) + "\n")
    (run / "config.yaml").write_text("SEED: 1\n")
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    args = [run, "--output", tmp_path / "r.html"]
    if name == "metrics.json":
        check_refused("tools/report.py", args, ["metrics.json", "a pipe, not an ordinary file"])
        return
    code, text = run_program("tools/report.py", *args)
    assert code == 0, text
    if name == "visuals/a.png":
        assert "a.png cannot be read" in (tmp_path / "r.html").read_text()
    else:
        assert f"{name} is a pipe, not an ordinary file" in text


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "log.txt", "last_checkpoint", "model_0000001.pth"])
@pytest.mark.parametrize("more", [[], ["--resume"], ["--eval-only"]])
def test_a_training_waits_for_no_pipe_in_its_folder(scene, tmp_path, name, more):
    os.mkfifo(tmp_path / name)
    args = ["--config-file", scene.root / "mic.yaml", *more, "OUTPUT_DIR", tmp_path, "SOLVER.MAX_ITER", 1]
    check_refused("tools/train_net.py", args, [name, "a pipe, not an ordinary file"])


@pytest.mark.parametrize("what", ["image", "json", "config"])
@pytest.mark.parametrize("program", ["tools/train_net.py", "datasets/check.py"])
def test_nothing_waits_for_pipes_among_the_data(scene, tmp_path, what, program):
    for name in ("source", "target"):
        shutil.copytree(scene.root / name, tmp_path / name)
    own = Scene(tmp_path)
    config = own.config(SOLVER__MAX_ITER=1)
    file = {"image": own.image, "json": own.json, "config": Path(config)}[what]
    file.unlink()
    os.mkfifo(file)
    extra = ["--workers", 1] if program == "datasets/check.py" else []
    check_refused(program, ["--config-file", config, *extra], [file, "not an ordinary file"])


def test_pictures_are_not_drawn_into_the_images_of_a_set(scene):
    images = scene.root / "target/images"
    before = content(images)
    args = ["--config-file", scene.root / "mic.yaml", "--output", images, "--dataset", "target_val"]
    for more in ([], ["--overwrite"]):
        full = [*args, *more, "MODEL.WEIGHTS", scene.root / "model.pth"]
        check_refused("tools/visualize_pseudo_boxes.py", full, ["val_0.png", "read by"])
    assert content(images) == before


def test_training_pictures_do_not_become_images_of_a_folder_set(scene, tmp_path):
    shutil.copytree(scene.root / "source", tmp_path / "source")
    shutil.copytree(scene.root / "target", tmp_path / "target")
    own = Scene(tmp_path)
    sets = {"source_train": {"JSON": str(own.json), "IMAGES": str(tmp_path / "source/images")},
            "fog": {"IMAGES": str(tmp_path / "target/images")}}  # fmt: skip
    keys = {**MIC, "DATASETS__TARGET": ["fog"], "DATASETS__CUSTOM": sets, "DATASETS__TEST": [], "VIS_PERIOD": 1}
    args = ["--config-file", own.config(**keys), "OUTPUT_DIR", tmp_path / "target/images/run"]
    check_refused("tools/train_net.py", args, ["OUTPUT_DIR", "image folder of fog"])


@pytest.mark.parametrize("output", ["day", "day/foggy", "depth/foggy"])
def test_fog_is_not_made_into_the_folders_that_it_is_made_from(tmp_path, output):
    write_image(tmp_path / "day/a.png", np.full((32, 48, 3), 90, np.uint8))
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth/a.npy", np.full((32, 48), 20.0))
    with pytest.raises(FogError, match="another --output"):
        make_foggy_folder(tmp_path / "day", tmp_path / "depth", tmp_path / output, ["0.02"], workers=1, progress=False)
    assert sorted(content(tmp_path)) == ["day/a.png", "depth/a.npy"]


def test_the_miniature_city_leaves_annotations_of_others(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val.json").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(MinicityError, match="instances_val.json"):
            make_minicity(tmp_path, 1, 1, (64, 32), workers=1, overwrite=overwrite, progress=False)
    assert content(tmp_path) == {"annotations/instances_val.json": b"mine"}


def test_annotations_of_the_users_stay_beside_cityscapes(tmp_path, monkeypatch):
    """A COCO file of the name that a set's would have, but of other images: the set's goes to the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "cityscapes"
    write_cityscapes(root)
    mine = {"images": [{"id": 1, "file_name": "mine.png"}]}
    (root / "annotations").mkdir(exist_ok=True)
    file = root / "annotations/instances_val.json"
    file.write_text(json.dumps(mine))
    program = "datasets/prepare_cityscapes.py"
    args = ["--root", root, "--split", "val", "--workers", 1]
    check_refused(program, args, ["instances_val.json", "did not make it", "--overwrite"])
    assert json.loads(file.read_text()) == mine
    assert len(list((tmp_path / "cache").rglob("instances_val.json"))) == 1
    assert run_program(program, *args, "--output", tmp_path / "coco")[0] == 0, "other folders are free"
    assert run_program(program, *args, "--overwrite")[0] == 0 and json.loads(file.read_text()) != mine
