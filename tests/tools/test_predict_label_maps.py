"""tools/predict.py with models that label pixels: against Detectron2's own predictor, and what is on the disk."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image

import mic_det
from helpers.data import (
    HEIGHT,
    WIDTH,
    declared,
    forget_registered_sets,
    load,
    refusal_here,
    run_tool_here,
    tiny_config,
    write_config,
    write_two_domains,
)
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.visualization.label_colors import CITYSCAPES_COLORS

SIZE = {"MIN_SIZE_TEST": 48, "MAX_SIZE_TEST": 72, "FORMAT": "RGB"}  # smaller than the images
HEAD = {"NUM_CLASSES": 3, "CONVS_DIM": 8, "NORM": ""}
NAMES = ["road", "sky", "car"]


def keys(root, student):
    sets = declared(root)
    sets["target_val"].update(SEM_SEG="maps", SEM_SEG_CLASSES=NAMES)
    return {
        "MODEL__META_ARCHITECTURE": "MIC", "MODEL__MIC__STUDENT": student, "MODEL__SEM_SEG_HEAD": HEAD, "INPUT": SIZE,
        "DATASETS__TARGET": ["target_train"], "DATASETS__CUSTOM": sets, "DATASETS__TEST": ["target_val"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A MIC around a segmentation model and one around a panoptic model; teachers and students differ."""
    root = tmp_path_factory.mktemp("label_maps")
    write_two_domains(root)
    for student in ("SemanticSegmentor", "BoxPanopticFPN"):
        config = tiny_config(root, **keys(root, student))
        write_config(root / f"{student}.yaml", config)
        with forget_registered_sets():
            torch.manual_seed(0)
            model = build_model(load(root, config))
            for part in (model.student, model.teacher):
                for p in part.sem_seg_head.predictor.parameters():
                    p.data.copy_(torch.randn(p.shape))
        MICCheckpointer(model, str(root)).save(student)
        for part in ("student", "teacher"):
            torch.save({"model": getattr(model, part).state_dict()}, root / f"{student}_{part}.pth")
    return root


def predict(folder, student, output, *args, monkeypatch):
    args = ["--config-file", folder / f"{student}.yaml", "--output", output, "--confidence-threshold", 0.28, *args]
    run_tool_here("predict.py", *args, "MODEL.WEIGHTS", folder / f"{student}.pth", monkeypatch=monkeypatch)


def truth(folder, student, part, file):
    """(H, W) labels by Detectron2's own predictor with the plain model's weights."""
    with forget_registered_sets():
        plain = {**keys(folder, student), "MODEL__META_ARCHITECTURE": student, "DATASETS__TARGET": []}
        cfg = load(folder, tiny_config(folder, **plain))
        cfg.MODEL.WEIGHTS = str(folder / f"{student}_{part}.pth")
        return DefaultPredictor(cfg)(cv2.imread(str(file)))["sem_seg"].argmax(dim=0).numpy()


@pytest.mark.parametrize("part", ["teacher", "student"])
@pytest.mark.parametrize("student", ["SemanticSegmentor", "BoxPanopticFPN"])
def test_label_maps_are_those_of_detectron2s_predictor(folder, tmp_path, monkeypatch, student, part):
    file = folder / "target/images/val_0.png"
    more = ["--input", file, "--format", "label_maps,pictures", "MODEL.MIC.EVALUATE", part]
    predict(folder, student, tmp_path, *more, monkeypatch=monkeypatch)
    with Image.open(tmp_path / "label_maps/val_0.png.png") as opened:
        assert opened.mode == "L", "8 bits, one channel"
        found = np.array(opened)
    expected = truth(folder, student, part, file)
    assert found.shape == (HEIGHT, WIDTH) and len(np.unique(expected)) > 1
    # logits of pixels between two classes may differ by rounding
    assert (found == expected).mean() > 0.999
    other = truth(folder, student, {"teacher": "student", "student": "teacher"}[part], file)
    assert (found == other).mean() < 0.9
    assert (tmp_path / "label_maps/classes.txt").read_text() == "0 road\n1 sky\n2 car\n"
    assert (tmp_path / "pictures/val_0.png.jpg").is_file()


def test_a_picture_is_the_image_under_its_labels_colours(folder, tmp_path, monkeypatch):
    file = folder / "target/images/val_1.png"
    predict(folder, "SemanticSegmentor", tmp_path, "--input", file, monkeypatch=monkeypatch)
    picture = cv2.imread(str(tmp_path / "pictures/val_1.png.jpg"))[:, :, ::-1].astype(float)
    size = picture.shape[1], picture.shape[0]
    labels = truth(folder, "SemanticSegmentor", "teacher", file)
    expected = (cv2.imread(str(file))[:, :, ::-1].astype(float) + CITYSCAPES_COLORS[labels]) / 2
    expected = cv2.resize(expected, size, interpolation=cv2.INTER_NEAREST_EXACT)
    assert np.abs(picture - expected).mean() < 6, "JPEG's error"
    assert np.abs(picture - expected[:, ::-1]).mean() > 12, "a measure that tells pictures apart"


def test_a_video_has_a_label_map_for_each_frame(folder, tmp_path, monkeypatch):
    writer = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for value in (20, 120):
        writer.write(np.full((HEIGHT, WIDTH, 3), value, np.uint8))
    writer.release()
    more = ["--input", tmp_path / "drive.avi", "--format", "label_maps"]
    predict(folder, "SemanticSegmentor", tmp_path / "out", *more, monkeypatch=monkeypatch)
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png"))
    assert files == ["label_maps/drive.avi/000000.png", "label_maps/drive.avi/000001.png"]


def test_the_predictor_of_the_library_has_boxes_and_label_map_in_the_size_of_the_image(folder):
    with forget_registered_sets():
        opts = ["MODEL.WEIGHTS", str(folder / "BoxPanopticFPN.pth")]
        predictor = mic_det.Predictor(mic_det.get_mic_cfg(folder / "BoxPanopticFPN.yaml", opts), score_threshold=0.1)
    rgb = cv2.imread(str(folder / "target/images/val_0.png"))[:, :, ::-1]
    found = predictor(rgb)
    assert set(found) == {"instances", "label_map"} and found["label_map"].shape == rgb.shape[:2]
    assert found["instances"].image_size == rgb.shape[:2] and len(found["instances"])


@pytest.mark.parametrize(
    "student, format, parts",
    [
        ("SemanticSegmentor", "coco", ["--format coco", "SemanticSegmentor", "label_maps"]),
        ("SemanticSegmentor", "pictures,csv", ["--format csv", "SemanticSegmentor"]),
        ("GeneralizedRCNN", "label_maps", ["--format label_maps", "GeneralizedRCNN", "boxes alone"]),
    ],
)
def test_files_that_a_model_has_nothing_for_are_refused(folder, tmp_path, monkeypatch, student, format, parts):
    args = ["--config-file", folder / "SemanticSegmentor.yaml", "--output", tmp_path, "--format", format]
    args += ["--input", folder / "target/images/val_0.png", "MODEL.MIC.STUDENT", student]
    message = refusal_here("predict.py", *args, "MODEL.WEIGHTS", "any.pth", monkeypatch=monkeypatch)
    assert all(part in message for part in parts), message


def test_more_classes_than_a_png_holds_are_refused(folder, tmp_path, monkeypatch):
    args = ["--config-file", folder / "SemanticSegmentor.yaml", "--output", tmp_path, "--format", "label_maps"]
    args += ["--input", folder / "target/images/val_0.png", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 256]
    message = refusal_here("predict.py", *args, "MODEL.WEIGHTS", "any.pth", monkeypatch=monkeypatch)
    assert "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 256" in message and "255" in message
