"""Panels of one image: a grid that fits a screen, with the panels in their order and the labels legible."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from mic_det.visualization.before_after import before_after, before_after_sheet
from mic_det.visualization.grid import SCREEN, grid_columns, panel_grid
from mic_det.visualization.panels import COLORS, draw_boxes, text_height

CAPTION = 36  # pixels, of panels that are not wider than 800


def plain(count, width, height):
    return [(f"panel {i}", np.full((height, width, 3), 10 + 20 * i, np.uint8)) for i in range(count)]


def shown_values(grid, columns, rows):
    """The grey value in the lower part of each cell, row by row."""
    height, width = grid.shape[0] // rows, grid.shape[1] // columns
    return [
        int(grid[(r + 1) * height - height // 8, c * width + width // 2, 0])
        for r in range(rows)
        for c in range(columns)
    ]


@pytest.mark.parametrize(
    "count, width, height, columns",
    [
        (6, 800, 400, 3),  # a street of 2:1, with truth
        (5, 800, 400, 3),  # without
        (6, 800, 600, 3),  # 4:3
        (6, 800, 2400, 6),  # tall images stand side by side
        (6, 1600, 60, 1),  # very wide ones below each other
        (1, 800, 400, 1),
        (4, 800, 450, 2),
    ],
)
def test_the_columns_that_show_the_panels_largest(count, width, height, columns):
    """The expected numbers were found by hand: the scale at which c columns fit 1920 x 1000."""
    assert grid_columns(count, width, height) == columns


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 11])
@pytest.mark.parametrize("width, height", [(800, 400), (800, 1067), (2048, 1024), (800, 100)])
def test_no_other_number_of_columns_would_show_larger_panels(count, width, height):
    """Brute force: the largest panel width, pixel by pixel, whose grid with captions is inside the screen."""

    def largest(columns):
        rows = -(-count // columns)
        fits = [w for w in range(1, SCREEN[0] // columns + 1) if rows * (w * height / width + CAPTION) <= SCREEN[1]]
        return max(fits, default=0)

    chosen = grid_columns(count, width, height)
    # captions of panels above 800 pixels grow with them: a tenth of room for that
    assert largest(chosen) >= 0.9 * max(largest(c) for c in range(1, count + 1))


def test_a_grid_keeps_all_panels_in_their_order_and_fits_the_screen():
    grid = panel_grid(plain(6, 800, 400))
    assert grid.shape == (2 * (320 + CAPTION), 1920, 3), "six panels of 640 x 320"
    assert shown_values(grid, 3, 2) == [10, 30, 50, 70, 90, 110]
    five = panel_grid(plain(5, 800, 400))
    assert five.shape == grid.shape and shown_values(five, 3, 2) == [10, 30, 50, 70, 90, 255]


def test_panels_that_fit_are_not_made_larger_or_smaller():
    picture = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    grid = panel_grid([("a", picture), ("b", picture)])
    assert grid.shape == (200 + CAPTION, 600, 3)
    assert np.array_equal(grid[CAPTION:, :300], picture) and np.array_equal(grid[CAPTION:, 300:], picture)


@pytest.mark.parametrize("count, width, height", [(11, 800, 400), (6, 2048, 1024), (6, 4000, 3000)])
def test_labels_stay_legible_where_not_everything_fits(count, width, height):
    grid = panel_grid(plain(count, width, height))
    columns = grid_columns(count, width, height)
    assert text_height(width) * (grid.shape[1] / columns) / width >= 10.9
    assert grid.shape[1] / columns <= width and grid.shape[1] > grid.shape[0], "still wider than tall, as a screen"


def test_another_screen_and_a_given_number_of_columns():
    assert panel_grid(plain(4, 200, 100), columns=4).shape == (100 + CAPTION, 800, 3)
    portrait = panel_grid(plain(6, 800, 400), screen=(1080, 1920))
    assert portrait.shape[1] <= 1920 and portrait.shape[0] > portrait.shape[1]


# ------------------------------------------------------------------------------ before and after

IMAGE = np.full((100, 200, 3), 40, np.uint8)
TRUE = [[10.0, 10, 50, 50], [100, 20, 160, 80]]


def predictions(boxes, classes, scores):
    return Instances(
        (100, 200), pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)), pred_classes=torch.tensor(classes).long(),
        scores=torch.tensor(scores),
    )  # fmt: skip


def truth():
    return Instances((100, 200), gt_boxes=Boxes(torch.tensor(TRUE)), gt_classes=torch.tensor([0, 1]))


@pytest.fixture
def captions(monkeypatch):
    """Captions as they are drawn."""
    texts, put = [], cv2.putText
    monkeypatch.setattr(cv2, "putText", lambda image, text, *args: texts.append(text) or put(image, text, *args))
    return texts


def test_captions_count_right_and_wrong_boxes(captions):
    before_after(
        IMAGE,
        {
            "fog": None,
            # the first is right (IoU 30*40/1600 = 0.75), the second has another class, the third is a second box
            # around the first object, the fourth is not sure enough
            "before": predictions([[20.0, 10, 50, 50], TRUE[1], [10, 10, 40, 50], TRUE[1]], [0, 0, 0, 1],
                                  [0.9, 0.8, 0.7, 0.4]),
            "after": predictions(TRUE, [0, 1], [0.9, 0.6]),
            "nothing": predictions([], [], []),
            # IoU of 15 * 40 / 1600 = 0.375 is not enough
            "far": predictions([[10.0, 10, 25, 50]], [0], [0.9]),
            "truth": truth(),
        },
    )  # fmt: skip
    assert captions == [
        "fog", "before: 1 of 2 objects, 2 wrong boxes", "after: 2 of 2 objects", "nothing: 0 of 2 objects",
        "far: 0 of 2 objects, 1 wrong box", "truth: 2 objects",
    ]  # fmt: skip


def test_without_a_truth_captions_are_the_names(captions):
    before_after(IMAGE, {"source-only": predictions(TRUE[:1], [0], [0.9]), "adapted": predictions([], [], [])})
    assert captions == ["source-only", "adapted"]


def test_every_panel_shows_the_boxes_of_its_own_entry():
    picture = before_after(
        IMAGE, {"one": predictions(TRUE[:1], [0], [0.9]), "other": predictions(TRUE[1:], [1], [0.9]), "truth": truth()},
        labels=False, columns=3,
    )  # fmt: skip
    width, scale = picture.shape[1] // 3, picture.shape[1] / 3 / 200
    top = picture.shape[0] - round(100 * scale)

    def colour_at(panel, x, y):
        around = picture[top + round(y * scale) - 3 :, panel * width + round(x * scale) - 3 :][:7, :7].reshape(-1, 3)
        return around[np.abs(around.astype(int) - 40).sum(axis=1).argmax()].astype(int)

    def is_drawn(panel, box, label):
        x, y = box[0], (box[1] + box[3]) / 2  # the middle of its left edge
        found, color = colour_at(panel, x, y), 255 * COLORS[label]
        return bool(np.abs(found - color).max() < 70)

    drawn = [[is_drawn(panel, box, label) for label, box in enumerate(TRUE)] for panel in range(3)]
    assert drawn == [[True, False], [False, True], [True, True]]


def test_without_labels_only_the_boxes_are_drawn():
    labelled, bare = (draw_boxes(IMAGE, TRUE, [0, 1], class_names=["car", "bus"], labels=on) for on in (True, False))
    above = slice(55, 78), slice(400, 520)  # where the label of the second box stands
    assert (labelled[above] != 40).any()
    scale = 4
    inside_and_around = np.ones(bare.shape[:2], bool)
    for x0, y0, x1, y1 in TRUE:
        inside_and_around[int(y0 * scale) - 4 : int(y1 * scale) + 5, int(x0 * scale) - 4 : int(x1 * scale) + 5] = False
    assert (bare[inside_and_around] == 40).all() and (bare != 40).any()


def test_a_sheet_has_a_row_for_each_image_and_fits_a_screen_without_labels(captions):
    brightness = (20, 100, 180, 250)
    rows = [
        (np.full_like(IMAGE, value), {"before": predictions(TRUE[:n], [0, 1][:n], [0.9, 0.9][:n]), "truth": truth()})
        for value, n in zip(brightness, (0, 1, 2, 2))
    ]
    sheet = before_after_sheet(rows, labels=False)
    assert captions == [
        "before: 0 of 2 objects", "truth: 2 objects", "before: 1 of 2 objects", "truth: 2 objects",
        "before: 2 of 2 objects", "truth: 2 objects", "before: 2 of 2 objects", "truth: 2 objects",
    ]  # fmt: skip
    # four rows of 1000 pixels: captions of 36 and pictures of 214, twice as wide
    assert sheet.shape[:2] == (1000, 2 * 428)
    for row, value in enumerate(brightness):
        for column in range(2):
            corner = sheet[250 * row + 36 : 250 * row + 46, 428 * column : 428 * column + 10]
            assert np.abs(corner.astype(int) - value).max() <= 1, (row, column)
    assert before_after_sheet(rows).shape[0] > 1000, "labels stay legible"
