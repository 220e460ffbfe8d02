"""Export, then predict from the file: in an environment without PyTorch and Detectron2, and in a browser."""

import csv
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from helpers.browser import find_chromium, opened, served
from helpers.data import (
    forget_registered_sets,
    load,
    refusal_here,
    run_tool_here,
    tiny_config,
    write_config,
    write_two_domains,
)
from mic_det import DataError
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.deploy import web
from mic_det.deploy.compare import compare
from mic_det.deploy.onnx_predictor import OnnxPredictor
from mic_det.errors import ConfigError
from mic_det.inference.detections import Detections

pytestmark = pytest.mark.slow
for name in ("onnx", "onnxruntime"):
    pytest.importorskip(name)

ROOT = Path(__file__).parents[2]
LEAST = 0.28  # an untrained detector of three classes is never sure
HEAD = {"NAME": "SemSegFPNHead", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": 4, "CONVS_DIM": 32}
BARE = ("onnxruntime", "numpy", "opencv-python-headless", "protobuf", "flatbuffers", "packaging")  # with what ORT needs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A MIC of boxes and pixels with its checkpoint, images, and what was exported: the teacher and the student."""
    root = tmp_path_factory.mktemp("deploy")
    write_two_domains(root)
    config = tiny_config(
        root, MODEL__META_ARCHITECTURE="MIC", MODEL__MIC__STUDENT="BoxPanopticFPN", MODEL__SEM_SEG_HEAD=HEAD,
        DATASETS__TARGET=["target_train"], INPUT={"MIN_SIZE_TEST": 48, "MAX_SIZE_TEST": 72, "FORMAT": "RGB"},
        MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.1,
    )  # fmt: skip
    write_config(root / "mic.yaml", config)
    with forget_registered_sets():
        torch.manual_seed(0)
        model = build_model(load(root, config))
    with torch.no_grad():
        for part in (model.student, model.teacher):
            for p in (*part.roi_heads.box_predictor.parameters(), *part.sem_seg_head.predictor.parameters()):
                p.add_(torch.randn(p.shape) * 0.3)
    MICCheckpointer(model, str(root)).save("mic")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for part in ("teacher", "student"):
            call(patch, "export.py", *config_of(root), "--output", root / f"{part}.onnx", "--model", part,
                 "MODEL.WEIGHTS", root / "mic.pth")  # fmt: skip
    return root


def call(monkeypatch, name, *args):
    run_tool_here(name, *args, monkeypatch=monkeypatch)


def config_of(root):
    return "--config-file", root / "mic.yaml"


def read_csv(folder):
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def as_answers(rows):
    """Rows of predictions.csv as a dict of Detections by file."""
    found = {}
    for row in rows:
        found.setdefault(row["file"], []).append(row)
    return {
        file: {
            "instances": Detections(
                np.array([[float(r[k]) for k in ("x_min", "y_min", "x_max", "y_max")] for r in rows]),
                np.array([float(r["score"]) for r in rows]),
                np.array([int(r["category_id"]) for r in rows]),
            )
        }
        for file, rows in found.items()
    }


def bare_environment(folder):
    """A folder of packages with those of BARE alone, linked to what is installed."""
    folder.mkdir()
    for name in BARE:
        tops = {Path(f).parts[0] for f in metadata.files(name)} - {"..", "__pycache__"}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(metadata.distribution(name).locate_file(top))
    return folder


def run_bare(packages, *args, cwd):
    """tools/predict.py by this interpreter without its site-packages."""
    code = (
        "import sys, runpy; sys.path[:0] = [sys.argv[2], sys.argv[1]]; tool = sys.argv[3]; sys.argv[:4] = [tool]\n"
        "runpy.run_path(tool, run_name='__main__')"
    )
    command = [sys.executable, "-B", "-I", "-S", "-c", code, packages, ROOT, ROOT / "tools/predict.py", *args]
    return subprocess.run([str(x) for x in command], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("part", ["teacher", "student"])
def test_a_bare_environment_finds_what_pytorch_finds(part, folder, tmp_path, monkeypatch):
    images = folder / "target/images"
    options = ["--input", images, "--confidence-threshold", LEAST, "--format", "csv,label_maps,pictures"]
    packages = bare_environment(tmp_path / "packages")
    done = run_bare(packages, "--weights", folder / f"{part}.onnx", *options, "--output", tmp_path / "a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    call(monkeypatch, "predict.py", *config_of(folder), *options, "--output", tmp_path / "b",
         "MODEL.WEIGHTS", folder / "mic.pth", "MODEL.MIC.EVALUATE", part)  # fmt: skip
    ours, theirs = (as_answers(read_csv(tmp_path / x)) for x in "ab")
    assert ours.keys() == theirs.keys() and sum(len(x["instances"].scores) for x in ours.values()) > 20
    for file, expected in theirs.items():
        result = compare(expected, ours[file])
        assert result.equal, f"{file}: {result}"
    maps = sorted(p.relative_to(tmp_path / "b") for p in tmp_path.glob("b/label_maps/*"))
    assert len(maps) == len(list(images.iterdir())) + 1
    for name in maps:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(list(tmp_path.glob("a/pictures/*.jpg"))) == len(maps) - 1
    loaded = run_bare(packages, "--weights", "nothing.onnx", *options, "--output", tmp_path / "c", cwd=tmp_path)
    assert loaded.returncode == 1 and loaded.stderr == (
        "error: nothing.onnx is missing: name a file that `mic-det export` wrote.\n"
    )


def test_the_bare_environment_is_bare(tmp_path):
    packages = bare_environment(tmp_path / "packages")
    for name in ("torch", "detectron2", "PIL", "tqdm", "yaml", "matplotlib"):
        code = f"import sys; sys.path.insert(0, {str(packages)!r}); import {name}"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
        assert f"No module named '{name}'" in done.stderr


def test_verify_compares_with_pytorch(folder, tmp_path, monkeypatch, capsys):
    arguments = [*config_of(folder), "--verify", folder / "target/images", "MODEL.WEIGHTS", folder / "mic.pth"]
    for name in ("a.onnx", "a.ts"):
        call(monkeypatch, "export.py", "--output", tmp_path / name, *arguments)
        count = len(list((folder / "target/images").iterdir()))
        assert f"{count} of {count} images equal" in capsys.readouterr().out and (tmp_path / name).is_file()

    shifted = OnnxPredictor.run

    def run(self, image, size):
        boxes, *others = shifted(self, image, size)
        boxes[:1] += 0.2
        return [boxes, *others]

    monkeypatch.setattr(OnnxPredictor, "run", run)
    message = refusal_here("export.py", "--output", tmp_path / "b.onnx", *arguments, monkeypatch=monkeypatch)
    told = capsys.readouterr().out
    assert "differs from PyTorch on" in message and not (tmp_path / "b.onnx").exists()
    assert "val_0.png: 1 of" in told and "only in the exported file" in told


def test_videos_and_folders_without_images_do_not_verify(folder, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    message = refusal_here("export.py", *config_of(folder), "--output", tmp_path / "a.onnx",
                           "--verify", tmp_path / "empty", "MODEL.WEIGHTS", folder / "mic.pth",
                           monkeypatch=monkeypatch)  # fmt: skip
    assert message.startswith("error: --verify ") and "no images" in message and not (tmp_path / "a.onnx").exists()


def test_a_damaged_image_does_not_verify(folder, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    message = refusal_here("export.py", *config_of(folder), "--output", tmp_path / "a.onnx",
                           "--verify", tmp_path / "images", "MODEL.WEIGHTS", folder / "mic.pth",
                           monkeypatch=monkeypatch)  # fmt: skip
    assert "--verify: " in message and "images/broken.png cannot be read" in message
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "a.onnx", "--format", "detectron2"], "--format detectron2 is for .pth or .safetensors"),
        (["--output", "a.txt"], "use a name that ends with"),
        (["--output", "a.onnx", "--web", "page"], "name one of --output FILE and --web DIR"),
        (["--output", "a.pth", "--verify", "x"], "--size and --verify belong to ONNX and TorchScript"),
        (["--output", "a.onnx", "--size", "5", "64"], "at least 32 pixels"),
        (["--output", "a.onnx", "--source-only", "b.pth"], "--source-only belongs to --web"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "export.py", "--config-file", "minicity/mic.yaml", *arguments)
    assert message in capsys.readouterr().err


def test_pixels_of_16_bits_are_refused(folder, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), 40000, np.uint16))
    with pytest.raises(DataError, match="not of 8 bits but uint16"):
        OnnxPredictor.read(tmp_path / "a.png")


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    """The page with the student as source-only beside the teacher."""
    if find_chromium() is None:
        pytest.skip("there is no Chromium")
    place = tmp_path_factory.mktemp("page")
    try:
        with web._runtime() as dist:
            runtime = {name: (dist / name).read_bytes() for name in web.RUNTIME}
    except ConfigError as e:
        pytest.skip(str(e))
    dist = place / "node_modules/onnxruntime-web/dist"  # so that the export does not fetch it again
    dist.mkdir(parents=True)
    for name, content in runtime.items():
        (dist / name).write_bytes(content)
    torch.save({"model": torch.load(folder / "mic.pth", weights_only=False)["model"]}, place / "source.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        call(patch, "export.py", *config_of(folder), "--web", place / "page", "--source-only", place / "source.pth",
             "MODEL.WEIGHTS", folder / "mic.pth")  # fmt: skip
    return place / "page"


def test_the_page_shows_in_a_browser_what_python_finds(page, folder, tmp_path):
    image = folder / "target/images/val_0.png"
    with served(page) as url, opened(tmp_path / "profile") as browser:
        browser.open(f"{url}/index.html")
        browser.choose_file("#file", image)
        found = browser.evaluate("window.found")
        shown = "document.querySelector('figcaption').textContent"
        slide = "((t) => { t.value = %s; t.dispatchEvent(new Event('input')) })(document.getElementById('threshold'));"
        captions = [browser.evaluate((slide % least) + shown) for least in (0.3, 1)]
        painted = browser.evaluate("document.querySelectorAll('canvas')[1].width")
    assert [x["title"] for x in found] == ["source-only", "adapted"]
    for x in found:
        predictor = OnnxPredictor(page / f"{x['title']}.onnx", 0.1)
        rgb = predictor.read(image)
        labels = np.array(x["labels"]).reshape(rgb.shape[:2])
        boxes = x["boxes"]
        there = {
            "instances": Detections(
                np.array([b["box"] for b in boxes]), np.array([b["score"] for b in boxes]),
                np.array([b["number"] for b in boxes]),
            ),
            "label_map": labels,
        }  # fmt: skip
        expected = predictor(rgb)
        result = compare(expected, there)
        assert result.equal and result.count > 5, str(result)
        assert [b["name"] for b in boxes] == [predictor.classes[i][1] for i in expected["instances"].classes]
    count = sum(b["score"] >= 0.3 for b in found[0]["boxes"])
    assert captions == [f"source-only: {count} objects", "source-only: 0 objects"] and painted == rgb.shape[1]
    assert browser.console == []
    assert browser.urls and all(u.startswith((url, "blob:", "data:", "about:")) for u in browser.urls)
