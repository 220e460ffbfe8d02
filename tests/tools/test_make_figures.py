"""tools/make_figures.py: the pictures of README and docs from run folders."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from helpers.data import (
    HEIGHT,
    WIDTH,
    forget_registered_sets,
    load,
    refusal_here,
    run_tool_here,
    tiny_config,
    write_config,
    write_two_domains,
)
from helpers.faults import pixel_keys, write_scene
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.visualization.label_colors import color_labels
from mic_det.visualization.label_maps import compared_label_maps

pytestmark = pytest.mark.slow
CELL = round(HEIGHT * 800 / WIDTH) + 36


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two finished runs, of an untrained plain detector and an untrained MIC."""
    root = tmp_path_factory.mktemp("figures")
    write_two_domains(root)
    mic = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"]}
    for name, keys in (("plain", {}), ("mic", mic)):
        config = tiny_config(root, root / name, **keys)
        (root / name).mkdir()
        with forget_registered_sets():
            torch.manual_seed(0)
            MICCheckpointer(build_model(load(root, config)), str(root / name)).save("model_final")
        write_config(root / name / "config.yaml", config)
    return root


def arguments(root, output, *more):
    runs = [f"before={root / 'plain'}", f"after={root / 'mic'}"]
    return ["--output", output, "--dataset", "target_val", "--runs", *runs, *more]


def test_two_detectors_and_the_truth_of_each_image(root, tmp_path, monkeypatch):
    more = ["--image", 1, 3, "--columns", 2, "--no-labels", "--panels", "after"]
    run_tool_here("make_figures.py", *arguments(root, tmp_path, *more), monkeypatch=monkeypatch)
    names = sorted(p.name for p in tmp_path.glob("*.jpg"))
    assert names == [f"{kind}_{i}.jpg" for kind in ("before_after", "panels") for i in (1, 3)]
    for i in (1, 3):
        picture = cv2.imread(str(tmp_path / f"before_after_{i}.jpg")).astype(int)
        height, width = picture.shape[0] // 2, picture.shape[1] // 2
        assert abs(width / (height - 36) - WIDTH / HEIGHT) < 0.02 and picture.shape[0] <= 1000
        image = cv2.imread(str(root / f"target/images/val_{i}.png"))
        image = cv2.resize(image, (width, height - 36)).astype(int)
        for row, column in ((0, 0), (0, 1), (1, 0)):
            cell = picture[row * height + 36 : (row + 1) * height, column * width : (column + 1) * width]
            assert np.abs(cell - image).mean() < 12, "every panel shows this image"
        assert (picture[height + 8 :, width + 8 :] > 245).all(), "the fourth place is empty"
        assert cv2.imread(str(tmp_path / f"panels_{i}.jpg")).shape[1] <= 1920


def test_label_maps_of_two_models_and_the_truth(tmp_path, monkeypatch):
    write_scene(tmp_path)
    config = tiny_config(tmp_path, **pixel_keys(tmp_path))
    for label, name in enumerate(("zeros", "ones")):
        folder = tmp_path / name
        folder.mkdir()
        with forget_registered_sets():
            model = build_model(load(tmp_path, config))
        model.sem_seg_head.predictor.bias.data[label] = 1000.0  # the same answer everywhere
        MICCheckpointer(model, str(folder)).save("model_final")
        write_config(folder / "config.yaml", config)
    runs = [f"{name}={tmp_path / name}" for name in ("zeros", "ones")]
    run_tool_here("make_figures.py", "--output", tmp_path / "out", "--dataset", "target_val", "--image", 0,
                  "--columns", 1, "--runs", *runs, monkeypatch=monkeypatch)  # fmt: skip
    assert [p.name for p in (tmp_path / "out").glob("*.jpg")] == ["label_maps_0.jpg"], "these models have no boxes"
    picture = cv2.imread(str(tmp_path / "out/label_maps_0.jpg"))[:, :, ::-1].astype(int)
    cells = [cell[36:] for cell in np.split(picture, 4)]  # below the captions
    truth = np.asarray(Image.open(tmp_path / "target/labels/val_0.png").resize(cells[0].shape[1::-1], Image.NEAREST))
    for cell, labels in zip(cells[1:], (0 * truth, 0 * truth + 1, truth)):
        assert np.abs(cell - color_labels(labels)).mean() < 6


def test_captions_tell_the_share_of_right_pixels():
    truth = np.array([[0, 1], [1, 255]])
    maps = {"a": np.array([[0, 1], [0, 0]]), "b": np.array([[0, 1], [1, 0]])}
    image = np.zeros((2, 2, 3), np.uint8)
    captions = [caption for caption, _ in compared_label_maps(image, maps, truth)]
    assert captions == ["image", "a: 66.7% of the pixels", "b: 100.0% of the pixels", "true labels"]
    assert [caption for caption, _ in compared_label_maps(image, maps)] == ["image", "a", "b"]
    assert [c for c, _ in compared_label_maps(image, maps, 0 * truth + 255)] == ["image", "a", "b", "true labels"]


def test_without_a_number_a_typical_image_is_drawn(root, tmp_path, monkeypatch):
    labels = root / "target/val.json"
    whole = labels.read_text()
    content = json.loads(whole)
    number = {0: 1, 1: 6, 2: 3, 3: 0}  # boxes of each image; the median of those with any is 3
    box = {k: v for k, v in content["annotations"][0].items() if k not in ("id", "image_id")}
    content["annotations"] = [
        {**box, "image_id": content["images"][i]["id"], "id": 10 * i + j + 1} for i in number for j in range(number[i])
    ]
    labels.write_text(json.dumps(content))
    try:
        run_tool_here("make_figures.py", *arguments(root, tmp_path), monkeypatch=monkeypatch)
    finally:
        labels.write_text(whole)
    assert [p.name for p in tmp_path.glob("*.jpg")] == ["before_after_2.jpg"]


@pytest.mark.parametrize(
    "change, message",
    [
        (["--image", "4"], "target_val has images 0 to 3"),
        (["--dataset", "fogg"], "'fogg', neither registered nor"),
        (["--panels", "before"], "is not MIC"),
        (["--panels", "other"], "not among the names of --runs: before, after"),
        (["--runs", "mic"], "write NAME=RUN_DIR"),
    ],
)
def test_mistakes_are_named(root, tmp_path, change, message, monkeypatch, capsys):
    assert message in refusal_here("make_figures.py", *arguments(root, tmp_path, *change), monkeypatch=monkeypatch)
    assert not list(tmp_path.iterdir())


def test_an_unfinished_run_is_named(root, tmp_path, monkeypatch):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(root / "plain/config.yaml", unfinished)
    args = ["--output", tmp_path / "out", "--dataset", "target_val", "--runs", f"before={unfinished}"]
    message = refusal_here("make_figures.py", *args, monkeypatch=monkeypatch)
    assert "has no model_final.pth" in message and str(unfinished) in message
