"""tools/visualize_pseudo_boxes.py as users run it."""

import json

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from helpers.data import (
    HEIGHT,
    SPLITS,
    WIDTH,
    forget_registered_sets,
    load,
    refusal_here,
    run_tool,
    run_tool_here,
    tiny_config,
    write_config,
    write_image,
    write_two_domains,
)
from mic_det.checkpoint.checkpointer import MICCheckpointer

pytestmark = pytest.mark.slow

PANEL = (round(HEIGHT * 800 / WIDTH), 800)  # images narrower than 800 pixels are enlarged to that
CAPTION = 36
MIC = {
    "MODEL__META_ARCHITECTURE": "MIC",
    "MODEL__BACKBONE__NAME": "build_torchvision_fpn_backbone",
    "DATASETS__TARGET": ["target_train"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, a MIC config and weights: of an untrained model, whose boxes are few but whose pictures are the same."""
    root = tmp_path_factory.mktemp("visualize")
    write_two_domains(root)
    for name in ("day1/0.png", "day2/0.png"):  # as in datasets of several drives
        write_image(root / "drives" / name, np.full((HEIGHT, WIDTH, 3), 99, np.uint8))
    (root / "hazy images").mkdir()
    config = tiny_config(root, **MIC)
    config["DATASETS"]["CUSTOM"]["drives"] = {"IMAGES": str(root / "drives")}
    config["DATASETS"]["CUSTOM"]["empty"] = {"IMAGES": str(root / "hazy images")}
    write_config(root / "mic.yaml", config)
    write_config(root / "plain.yaml", tiny_config(root))
    with forget_registered_sets():
        torch.manual_seed(0)
        MICCheckpointer(build_model(load(root, config)), str(root)).save("mic")
    return root


@pytest.fixture(scope="module")
def pictures(folder):
    args = ["--config-file", folder / "mic.yaml", "--output", folder / "pictures", "--weights", folder / "mic.pth"]
    return folder / "pictures", run_tool("visualize_pseudo_boxes.py", *args, cwd=folder)


def read(path):
    picture = cv2.imread(str(path))
    assert picture is not None, path
    return picture[:, :, ::-1]


def test_one_picture_an_image_and_a_sheet_of_all(pictures):
    folder, out = pictures
    assert sorted(p.name for p in folder.glob("*.png")) == ["contact_sheet.png"] + [
        f"val_{i}.png" for i in range(SPLITS["val"])
    ]
    assert "4 pictures" in out and "contact_sheet.png" in out


def test_sheets_have_five_panels_an_image(pictures):
    folder, _ = pictures
    cell = PANEL[0] + CAPTION
    assert read(folder / "contact_sheet.png").shape == (4 * cell, 6 * PANEL[1], 3)
    single = read(folder / "val_0.png")
    assert single.shape[1] == 1920 and single.shape[0] <= 1000, "the panels of one image fit a screen"


def test_the_sheet_shows_the_images_themselves_in_the_order_of_the_set(pictures, folder):
    sheet = read(pictures[0] / "contact_sheet.png").astype(int)
    cell = PANEL[0] + CAPTION
    for i in range(SPLITS["val"]):
        image = read(folder / f"target/images/val_{i}.png").astype(int)
        shown = sheet[i * cell + CAPTION : (i + 1) * cell, : PANEL[1]]
        small = cv2.resize(shown.astype(np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(small - image).mean() < 6
        others = [read(folder / f"target/images/val_{j}.png").astype(int) for j in range(SPLITS["val"]) if j != i]
        assert min(np.abs(small - other).mean() for other in others) > 12


def test_the_true_boxes_are_drawn_in_the_last_panel(pictures, folder):
    content = json.loads((folder / "target/val.json").read_text())
    sheet = read(pictures[0] / "contact_sheet.png").astype(int)
    cell, scale = PANEL[0] + CAPTION, 800 / WIDTH
    for i, image in enumerate(content["images"]):
        rows = slice(i * cell + CAPTION, (i + 1) * cell)
        changed = np.abs(sheet[rows, 5 * 800 :] - sheet[rows, :800]).max(axis=2) > 25
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]]
        for x, y, w, h in boxes:
            for px, py in [(x, y + h / 2), (x + w, y + h / 2), (x + w / 2, y + h)]:
                px, py = round(px * scale), round(py * scale)
                assert changed[max(0, py - 4) : py + 5, max(0, px - 4) : px + 5].any()
            centre = changed[round((y + 0.6 * h) * scale) :, :][:8, round((x + 0.6 * w) * scale) :][:, :8]
            assert not centre.any()


def draw(folder, output, *args, monkeypatch):
    args = ["--config-file", folder / "mic.yaml", "--output", output, *args, "MODEL.WEIGHTS", folder / "mic.pth"]
    run_tool_here("visualize_pseudo_boxes.py", *args, monkeypatch=monkeypatch)


def test_images_of_the_same_name_in_two_folders_do_not_overwrite_each_other(folder, tmp_path, monkeypatch, capsys):
    draw(folder, tmp_path, "--dataset", "drives", "--num-images", 9, monkeypatch=monkeypatch)
    assert "2 pictures" in capsys.readouterr().out
    assert len(list(tmp_path.glob("**/*.png"))) == 3
    # unlabelled: there is no panel of the truth
    assert read(tmp_path / "contact_sheet.png").shape == (2 * (PANEL[0] + CAPTION), 5 * PANEL[1], 3)


def test_the_same_call_gives_the_same_pictures(folder, tmp_path, monkeypatch):
    for output in ("first", "again"):
        draw(folder, tmp_path / output, "--num-images", 2, monkeypatch=monkeypatch)
    assert sorted(p.name for p in (tmp_path / "first").glob("*.png")) == ["contact_sheet.png", "val_0.png", "val_3.png"]
    assert np.array_equal(read(tmp_path / "first/val_3.png"), read(tmp_path / "again/val_3.png"))


@pytest.mark.parametrize(
    "config, weights, dataset, parts",
    [
        ("plain.yaml", "mic.pth", "target_val", ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MIC"]),
        ("mic.yaml", "gone.pth", "target_val", ["gone.pth", "MODEL.WEIGHTS"]),
        ("mic.yaml", "mic.pth", "nothing_of_this_name", ["nothing_of_this_name", "--dataset"]),
        ("mic.yaml", "mic.pth", "empty", ["hazy images"]),
    ],
    ids=["plain detector", "missing weights", "unknown set", "empty set"],
)
def test_a_wrong_call_ends_with_one_error_line(folder, monkeypatch, config, weights, dataset, parts):
    args = ["--config-file", folder / config, "--output", folder / "x", "--dataset", dataset]
    args += ["MODEL.WEIGHTS", folder / weights]
    message = refusal_here("visualize_pseudo_boxes.py", *args, monkeypatch=monkeypatch)
    assert all(part in message for part in parts), message


def test_a_window_without_a_display_is_refused_before_time_is_spent(folder, monkeypatch):
    args = ["--config-file", folder / "mic.yaml", "--output", folder / "none", "--window"]
    args += ["--weights", folder / "gone.pth"]  # would be the error if weights came first
    monkeypatch.setattr("matplotlib.pyplot.figure", Figure)  # as with the Agg backend, that knows no toolkit
    message = refusal_here("visualize_pseudo_boxes.py", *args, monkeypatch=monkeypatch)
    assert "--window" in message and "display" in message and not (folder / "none").exists()


def test_a_window_shows_each_picture_that_is_written(folder, tmp_path, monkeypatch):
    """Matplotlib's backend without windows, which claims to have one: what would be on the screen."""
    shown = []
    monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", "headless")
    monkeypatch.setattr(plt, "show", lambda: shown.append((plt.gcf().get_label(), plt.gca().images[0].get_array())))
    draw(folder, tmp_path, "--num-images", 2, "--window", monkeypatch=monkeypatch)
    plt.close("all")
    assert [title for title, _ in shown] == ["val_0", "val_3"]
    assert all(np.array_equal(picture, read(tmp_path / f"{title}.png")) for title, picture in shown)


def test_no_weights_at_all_are_refused(folder, monkeypatch):
    args = ["--config-file", folder / "mic.yaml", "--output", folder / "x", "MODEL.WEIGHTS", ""]
    assert "MODEL.WEIGHTS is empty" in refusal_here("visualize_pseudo_boxes.py", *args, monkeypatch=monkeypatch)
