"""Contact sheets keep the shape of pictures; class names of any script are drawn, or one warning names them."""

import base64
import logging
import warnings

import cv2
import numpy as np
import pytest

from mic_det.visualization import box_labels as labels
from mic_det.visualization.curves import bar_chart, line_chart, svg_uri
from mic_det.visualization.panels import draw_boxes
from mic_det.visualization.sheet import contact_sheet

CHINESE, NOBODYS = "\u6c7d\u8f66", "\U00012000\U00012001"  # a car, and cuneiform
HAS_WIDE_FONT = hasattr(cv2, "FontFace")


@pytest.fixture(autouse=True)
def each_name_is_new():
    labels.shown_name.cache_clear()


def drawn(name):
    """What the label adds to a picture with a box."""
    black = np.zeros((300, 800, 3), np.uint8)
    box = [[100, 100, 700, 250]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib warns of each missing character
        with_name = draw_boxes(black, box, [0], class_names=[name]).astype(int)
        plain = draw_boxes(black, box, [0], class_names=["\u00a0"]).astype(int)
    return np.abs(with_name - plain).max(axis=-1)


def ink(change):
    ys, xs = np.nonzero(change > 100)
    assert len(xs) > 30, "nothing is drawn"
    return xs.min(), ys.min(), xs.max(), ys.max()


@pytest.mark.skipif(not HAS_WIDE_FONT, reason="OpenCV 4 ships no such font")
def test_chinese_names_are_drawn_above_their_box(caplog):
    both, one = drawn(CHINESE), drawn(CHINESE[0])
    x0, y0, x1, y1 = ink(both)
    assert 95 <= x0 <= 106 and 70 <= y0 and y1 <= 101, "where a label of Latin letters is"
    assert abs((x1 - x0) - 2 * (ink(one)[2] - ink(one)[0])) <= 6, "two characters, twice as wide as one"
    assert (drawn(CHINESE[::-1]) != both).any() and not caplog.records


@pytest.mark.skipif(not HAS_WIDE_FONT, reason="OpenCV 4 ships no such font")
def test_fonts_are_asked_for_each_character():
    for text in ("car", "\u00e9t\u00e9", "\u0416"):
        assert labels.in_default_font(text)
    assert not labels.in_default_font(CHINESE) and labels.in_wide_font(CHINESE)
    assert not labels.in_wide_font(NOBODYS) and not labels.in_default_font(NOBODYS)
    assert not labels.in_wide_font(CHINESE + NOBODYS), "one that is missing is enough"


def test_a_name_that_no_font_has_is_told_once_and_shown_by_its_number(caplog, monkeypatch):
    if HAS_WIDE_FONT:
        for _ in range(3):
            assert (drawn(NOBODYS) == drawn("class 0")).all()
        assert [NOBODYS in r.getMessage() for r in caplog.records] == [True]
    monkeypatch.setattr(labels, "_wide_font", lambda: None)  # as in OpenCV 4
    labels.in_wide_font.cache_clear(), labels.shown_name.cache_clear(), caplog.clear()
    for _ in range(2):
        assert (drawn(CHINESE) == drawn("class 0")).all()
    labels.in_wide_font.cache_clear()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and CHINESE in record.getMessage()


@pytest.mark.parametrize("name", ["$a_b$", "5$ or 6$", r"$\frac$"])
def test_dollars_are_no_mathematics(name):
    assert ink(drawn(name))[2] - ink(drawn(name))[0] > 8 * len(name) / 2
    for figure in (line_chart(name, {name: ([0, 1], [1, 2])}), bar_chart(name, [name], {name: [1.0]})):
        assert svg_uri(figure)


def test_charts_leave_other_scripts_to_the_browsers_fonts():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = {name: svg_uri(line_chart("AP50", {name: ([0, 1], [1, 2])})) for name in (CHINESE, "car")}
    svg = {name: base64.b64decode(x.split(",")[1]).decode() for name, x in svg.items()}
    assert CHINESE in svg[CHINESE] and "<text" in svg[CHINESE] and "<text" not in svg["car"]


# ---------------------------------------------------------------------------------------- contact sheets


@pytest.mark.parametrize("size", [(120, 200), (50, 400), (31, 17), (100, 100)])
def test_a_picture_of_another_shape_keeps_it(size):
    """A disc stays a disc, as large as its cell allows, and what is beside it is white."""
    picture = np.zeros((*size, 3), np.uint8)
    cv2.circle(picture, (size[1] // 2, size[0] // 2), min(size) // 3, (200, 200, 200), -1)
    sheet = contact_sheet([[("a", np.full((100, 160, 3), 7, np.uint8)), ("b", picture)]])
    cell = sheet[-100:, 160:]
    ys, xs = np.nonzero(cell.max(axis=2) < 250)
    height, width = ys.max() - ys.min() + 1, xs.max() - xs.min() + 1
    assert abs(width / height - size[1] / size[0]) < 0.04 * size[1] / size[0] + 1 / height
    assert width >= 159 or height >= 99, "as large as it can be"
    assert abs((xs.min() + xs.max()) / 2 - 79.5) <= 1 and abs((ys.min() + ys.max()) / 2 - 49.5) <= 1
    ys, xs = np.nonzero((cell.max(axis=2) > 100) & (cell.max(axis=2) < 250))
    assert abs(np.ptp(xs) - np.ptp(ys)) <= 2


def test_very_narrow_pictures_are_not_enlarged_without_limit():
    assert max(draw_boxes(np.zeros((3000, 4, 3), np.uint8), [], []).shape) <= 4000
    assert draw_boxes(np.zeros((64, 96, 3), np.uint8), [], []).shape == (533, 800, 3)
