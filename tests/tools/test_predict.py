"""tools/predict.py as users run it: against Detectron2's own predictor, pycocotools and what is on the disk."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from pycocotools.coco import COCO

from helpers.data import (
    CLASSES,
    HEIGHT,
    WIDTH,
    forget_registered_sets,
    load,
    refusal_here,
    run_tool_here,
    tiny_config,
    write_config,
    write_image,
    write_two_domains,
)
from mic_det.checkpoint.checkpointer import MICCheckpointer

pytestmark = pytest.mark.slow

SCORES = 0.28  # an untrained detector of three classes is never sure


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, a MIC whose teacher and student differ, and the two as plain detectors."""
    root = tmp_path_factory.mktemp("predict")
    write_two_domains(root)
    size = {"MIN_SIZE_TEST": 48, "MAX_SIZE_TEST": 72, "FORMAT": "RGB"}  # smaller than the images
    common = {"MODEL__RESNETS__DEPTH": 18, "INPUT": size}
    plain = tiny_config(root, **common)
    mic = tiny_config(root, **common, MODEL__META_ARCHITECTURE="MIC", DATASETS__TARGET=["target_train"])
    write_config(root / "plain.yaml", plain)
    write_config(root / "mic.yaml", mic)
    with forget_registered_sets():
        torch.manual_seed(0)
        model = build_model(load(root, mic))
        with torch.no_grad():
            for p in model.student.roi_heads.box_predictor.parameters():
                p.add_(torch.randn(p.shape) * 0.3)
            for p in model.teacher.roi_heads.box_predictor.parameters():
                p.add_(torch.randn(p.shape) * 0.3)
        MICCheckpointer(model, str(root)).save("mic")
        for part in ("student", "teacher"):
            torch.save({"model": getattr(model, part).state_dict()}, root / f"{part}.pth")
    inputs = root / "inputs"
    (inputs / "night").mkdir(parents=True)
    for i in range(2):
        (inputs / f"val_{i}.png").write_bytes((root / f"target/images/val_{i}.png").read_bytes())
    (inputs / "night/val_0.png").write_bytes((root / "target/images/val_2.png").read_bytes())
    (inputs / "broken.png").write_bytes((root / "target/images/val_3.png").read_bytes()[:300])
    (inputs / "empty.jpg").write_bytes(b"")
    (inputs / "notes.txt").write_text("not an image")
    return root


def predict(folder, output, *args, monkeypatch, config="mic.yaml", weights="mic.pth", threshold=SCORES):
    args = ["--config-file", folder / config, "--output", output, "--confidence-threshold", threshold, *args]
    run_tool_here("predict.py", *args, "MODEL.WEIGHTS", folder / weights, monkeypatch=monkeypatch)
    return output


def truth(folder, part, file):
    """What Detectron2's own predictor finds with the plain detector's weights; XYXY boxes, scores, classes."""
    with forget_registered_sets():
        cfg = load(folder, tiny_config(folder, INPUT={"MIN_SIZE_TEST": 48, "MAX_SIZE_TEST": 72, "FORMAT": "RGB"}))
        cfg.MODEL.WEIGHTS = str(folder / f"{part}.pth")
        found = DefaultPredictor(cfg)(cv2.imread(str(file)))["instances"]
    found = found[found.scores >= SCORES]
    return found.pred_boxes.tensor.numpy(), found.scores.numpy(), found.pred_classes.numpy()


@pytest.mark.parametrize("part", ["teacher", "student"])
def test_boxes_are_those_of_detectron2s_predictor_in_the_frame_of_the_image(folder, tmp_path, monkeypatch, part):
    more = ["--input", folder / "inputs/val_0.png", "--format", "coco", "MODEL.MIC.EVALUATE", part]
    predict(folder, tmp_path, *more, monkeypatch=monkeypatch)
    boxes, scores, classes = truth(folder, part, folder / "inputs/val_0.png")
    found = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert len(found) == len(boxes) > 3
    xywh = np.array([a["bbox"] for a in found])
    assert np.allclose(xywh[:, :2], boxes[:, :2], atol=2e-2)
    assert np.allclose(xywh[:, :2] + xywh[:, 2:], boxes[:, 2:], atol=2e-2)
    assert boxes[:, 2].max() > 72, "the boxes are not in the frame of the smaller network input"
    assert np.allclose([a["score"] for a in found], scores, atol=1e-4)
    assert [a["category_id"] - 1 for a in found] == classes.tolist()


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    """A folder with three readable and two broken images, in all formats."""
    output = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch, forget_registered_sets():
        predict(folder, output, "--input", folder / "inputs", "--format", "pictures,coco,csv", monkeypatch=patch)
    return output


def test_pycocotools_reads_both_json_files(results):
    coco = COCO(str(results / "predictions.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    names = {x["file_name"] for x in coco.loadImgs(coco.getImgIds())}
    assert names == {"val_0.png", "val_1.png", "night/val_0.png"}
    assert all((x["width"], x["height"]) == (WIDTH, HEIGHT) for x in coco.dataset["images"])
    loaded = coco.loadRes(str(results / "coco_instances_results.json"))
    assert len(loaded.getAnnIds()) == len(coco.getAnnIds()) > 5
    for a in coco.dataset["annotations"]:
        x, y, w, h = a["bbox"]
        assert a["score"] >= SCORES and x >= 0 and y >= 0 and x + w <= WIDTH + 0.01 and y + h <= HEIGHT + 0.01


def test_the_csv_has_the_same_boxes_as_the_json(results):
    coco = json.loads((results / "predictions.json").read_text())
    names = {x["id"]: x["file_name"] for x in coco["images"]}
    wanted = [
        (names[a["image_id"]], CLASSES[a["category_id"] - 1], a["score"], *a["bbox"]) for a in coco["annotations"]
    ]
    with open(results / "predictions.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    number = lambda row, key: float(row[key])  # noqa: E731
    found = [
        (r["file"], r["class"], number(r, "score"), number(r, "x_min"), number(r, "y_min"),
         number(r, "x_max") - number(r, "x_min"), number(r, "y_max") - number(r, "y_min"))
        for r in rows
    ]  # fmt: skip
    assert len(found) == len(wanted)
    assert all(a[:2] == b[:2] and np.allclose(a[2:], b[2:], atol=2e-3) for a, b in zip(found, wanted))


def test_pictures_are_the_images_with_boxes_drawn_on_their_edges(results, folder):
    files = sorted(p.relative_to(results / "pictures").as_posix() for p in results.glob("pictures/**/*.jpg"))
    assert files == ["night/val_0.png.jpg", "val_0.png.jpg", "val_1.png.jpg"]
    coco, scale = COCO(str(results / "predictions.json")), 800 / WIDTH
    for image in coco.dataset["images"]:
        picture = cv2.imread(str(results / "pictures" / f"{image['file_name']}.jpg")).astype(int)
        original = cv2.imread(str(folder / "inputs" / image["file_name"]))
        assert picture.shape == (round(HEIGHT * scale), 800, 3)
        plain = cv2.resize(original, (800, picture.shape[0]), interpolation=cv2.INTER_NEAREST_EXACT).astype(int)
        changed = np.abs(picture - plain).max(axis=2) > 30
        for a in coco.loadAnns(coco.getAnnIds(image["id"])):
            x, y, w, h = (v * scale for v in a["bbox"])
            for px, py in [(x, y + h / 2), (x + w, y + h / 2), (x + w / 2, y + h)]:
                px, py = round(min(px, 799)), round(min(py, picture.shape[0] - 1))
                assert changed[max(0, py - 4) : py + 5, max(0, px - 4) : px + 5].any(), (image["file_name"], a)


def test_broken_images_are_named_and_counted_and_the_others_go_on(folder, tmp_path, monkeypatch, capsys):
    predict(folder, tmp_path, "--input", folder / "inputs", "--format", "csv", monkeypatch=monkeypatch)
    out, err = capsys.readouterr()
    assert "3 images" in out.strip().splitlines()[-1] and "2 skipped" in out.strip().splitlines()[-1]
    for name in ("broken.png", "empty.jpg"):
        assert any("skipped" in line and name in line for line in err.splitlines())
    assert "notes.txt" not in err


def test_only_broken_images_are_an_error(folder, tmp_path, monkeypatch):
    args = ["--config-file", folder / "mic.yaml", "--output", tmp_path, "--input", folder / "inputs/broken.png"]
    message = refusal_here("predict.py", *args, "MODEL.WEIGHTS", folder / "mic.pth", monkeypatch=monkeypatch)
    assert "none of the 1 images" in message


# ------------------------------------------------------------------------------------------ videos


def write_video(path, pictures, codec, rate=10):
    size = pictures[0].shape[1], pictures[0].shape[0]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, size)
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture[:, :, ::-1])
    writer.release()


def frames_of(path):
    video = cv2.VideoCapture(str(path))
    frames, rate = [], video.get(cv2.CAP_PROP_FPS)
    while True:
        read, frame = video.read()
        if not read:
            return frames, rate
        frames.append(frame)


def shade(value):
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def test_a_video_becomes_an_annotated_video_of_the_same_length_and_speed(folder, tmp_path, monkeypatch):
    write_video(tmp_path / "drive.mp4", [shade(v) for v in (20, 90, 160, 230)], "mp4v", rate=12)
    more = ["--input", tmp_path / "drive.mp4", "--format", "pictures,coco,csv"]
    predict(folder, tmp_path / "out", *more, monkeypatch=monkeypatch, threshold=0.99)  # no boxes: only the frames
    frames, rate = frames_of(tmp_path / "out/videos/drive.mp4.mp4")
    assert rate == 12 and len(frames) == 4
    assert frames[0].shape == (round(HEIGHT * 800 / WIDTH) // 2 * 2, 800, 3)
    for frame, value in zip(frames, (20, 90, 160, 230)):
        assert abs(float(frame.mean()) - value) < 6
    coco = COCO(str(tmp_path / "out/predictions.json"))
    assert [x["frame_index"] for x in coco.dataset["images"]] == [0, 1, 2, 3]
    assert {x["video"] for x in coco.dataset["images"]} == {"drive.mp4"}
    assert len({x["file_name"] for x in coco.dataset["images"]}) == 4
    assert coco.getAnnIds() == [] and len((tmp_path / "out/predictions.csv").read_text().splitlines()) == 1


def test_a_broken_frame_is_named_and_the_rest_of_the_video_goes_on(folder, tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "drive.avi", [shade(v) for v in (20, 60, 100, 140, 180, 220)], "MJPG")
    content = (tmp_path / "drive.avi").read_bytes()
    starts = [i for i in range(len(content) - 2) if content[i : i + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 6, "one JPEG a frame"
    hole = starts[3] - starts[2] - 16  # the next frame's header stays
    content = content[: starts[2]] + bytes(hole) + content[starts[2] + hole :]
    (tmp_path / "drive.avi").write_bytes(content)
    more = ["--input", tmp_path / "drive.avi", "--format", "pictures,coco"]
    predict(folder, tmp_path / "out", *more, monkeypatch=monkeypatch, threshold=0.99)
    out, err = capsys.readouterr()
    assert "drive.avi, frame 2" in err and "1 skipped" in out and "5 images" in out
    coco = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [x["frame_index"] for x in coco["images"]] == [0, 1, 3, 4, 5], "frames keep their numbers"
    frames, _ = frames_of(tmp_path / "out/videos/drive.avi.mp4")
    assert [round(float(f.mean()), -1) for f in frames] == [20, 60, 140, 180, 220]


# --------------------------------------------------------------------------- names, and what is refused


def test_images_of_the_same_name_do_not_overwrite_each_other(folder, tmp_path, monkeypatch):
    for name in ("day/a.png", "fog/a.png"):
        write_image(tmp_path / name, shade(99))
    inputs = ["--input", tmp_path / "day/a.png", tmp_path / "fog/a.png"]
    predict(folder, tmp_path / "out", *inputs, "--format", "pictures,coco", monkeypatch=monkeypatch)
    assert len(list((tmp_path / "out/pictures").rglob("*.jpg"))) == 2
    assert len({x["file_name"] for x in json.loads((tmp_path / "out/predictions.json").read_text())["images"]}) == 2


def test_without_the_data_classes_are_numbered(folder, tmp_path, monkeypatch):
    config = tiny_config(tmp_path / "nowhere", INPUT={"MIN_SIZE_TEST": 48, "MAX_SIZE_TEST": 72, "FORMAT": "RGB"})
    write_config(folder / "elsewhere.yaml", config)
    more = ["--input", folder / "inputs/val_0.png", "--format", "coco"]
    with forget_registered_sets():
        predict(folder, tmp_path, *more, monkeypatch=monkeypatch, config="elsewhere.yaml")
    categories = json.loads((tmp_path / "predictions.json").read_text())["categories"]
    assert categories == [{"id": i, "name": f"class {i}"} for i in (1, 2, 3)]


@pytest.mark.parametrize(
    "file, parts",
    [("gone.png", ["gone.png", "no such file"]), ("mic.yaml", ["mic.yaml", "neither an image nor a video"])],
)
def test_a_wrong_input_ends_with_one_error_line(folder, tmp_path, monkeypatch, file, parts):
    args = ["--config-file", folder / "mic.yaml", "--output", tmp_path, "--input", folder / file]
    message = refusal_here("predict.py", *args, "MODEL.WEIGHTS", folder / "mic.pth", monkeypatch=monkeypatch)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("option", [("--format", "coco,xml"), ("--confidence-threshold", "1.5")])
def test_a_wrong_option_is_refused_with_what_is_allowed(folder, tmp_path, monkeypatch, capsys, option):
    args = ["--config-file", folder / "mic.yaml", "--output", tmp_path, "--input", folder / "inputs", *option]
    with pytest.raises(SystemExit) as caught:
        run_tool_here("predict.py", *args, monkeypatch=monkeypatch)
    assert caught.value.code == 2
    assert option[0] in capsys.readouterr().err
