"""Rejected boxes: the reasons against brute force, dashes that have gaps, labels that stay legible in a crowd."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from mic_det.modeling.pseudo_labels import rejection_reasons, select_pseudo_boxes
from mic_det.visualization.panels import (
    _label_place,
    _overlap,
    _pseudo_box_panels,
    draw_boxes,
)
from mic_det.visualization.sheet import contact_sheet


def detections(seed, n=60):
    g = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(n, 2, generator=g) * 60, torch.rand(n, 2, generator=g) * 30 + 0.5
    return Instances(
        (100, 100), pred_boxes=Boxes(torch.cat([corner, corner + size], 1)), scores=torch.rand(n, generator=g),
        pred_classes=torch.randint(0, 3, (n,), generator=g),
    )  # fmt: skip


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def brute_force(instances, thresholds, nms, cap, min_size, ignore=None):
    boxes, scores = instances.pred_boxes.tensor.tolist(), instances.scores.tolist()
    classes, reasons, kept = instances.pred_classes.tolist(), [""] * len(instances), []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        x0, y0, x1, y1 = boxes[i]
        if scores[i] < thresholds[classes[i]]:
            reasons[i] = "score" if ignore is None or scores[i] < ignore else "undecided"
        elif min(x1 - x0, y1 - y0) < min_size:
            reasons[i] = "size"
        elif nms is not None and any(classes[j] == classes[i] and iou(boxes[j], boxes[i]) > nms for j in kept):
            reasons[i] = "NMS"
        else:
            reasons[i] = "count" if cap is not None and len(kept) >= cap else ""
            kept.append(i)
    return reasons


@pytest.mark.parametrize("thresholds", [(0.3, 0.3, 0.3), (0.1, 0.7, 0.4)])
@pytest.mark.parametrize("nms, cap, min_size", [(0.2, 5, 8.0), (None, None, 0.0), (0.5, None, 3.0), (None, 2, 0.0)])
def test_reasons_equal_brute_force(thresholds, nms, cap, min_size):
    seen = set()
    for seed in range(6):
        found = detections(seed)
        settings = dict(nms_threshold=nms, max_boxes=cap, min_size=min_size)
        delta = thresholds[0] if len(set(thresholds)) == 1 else thresholds
        reasons = rejection_reasons(found, delta, **settings)
        assert reasons == brute_force(found, thresholds, nms, cap, min_size)
        assert rejection_reasons(found, delta, **settings, ignore_score=0.2) == brute_force(
            found, thresholds, nms, cap, min_size, ignore=0.2
        )
        pseudo = select_pseudo_boxes(found, delta, **settings)
        assert sorted(pseudo.scores.tolist()) == sorted(s for s, r in zip(found.scores.tolist(), reasons) if not r)
        seen |= set(reasons)
    assert seen >= {"", "score"} | ({"NMS"} if nms == 0.2 else set()) | ({"size"} if min_size else set())
    assert ("count" in seen) == (cap is not None)


def edge(picture, x0, x1, y):
    """Where the lower edge of a box is coloured: one bool a column, the label's columns left out."""
    return picture[y - 3 : y + 4, x0:x1].max(axis=(0, 2)) > 60


def test_rejected_boxes_are_dashed_and_others_are_not():
    black = np.zeros((600, 1000, 3), np.uint8)
    box = [[200, 100, 800, 500]]
    plain, dashed = (draw_boxes(black, box, [0], [0.9], ["car"], reasons=[r]) for r in ("", "score"))
    assert edge(plain, 210, 790, 500).all()
    on = edge(dashed, 210, 790, 500)
    assert 0.3 < on.mean() < 0.95 and np.abs(np.diff(on.astype(int))).sum() > 10, "many dashes, with gaps"


@pytest.mark.parametrize("width", [800, 2048])
def test_the_reason_is_written_beside_class_and_score(width):
    """Its label is longer by the reason, and as high as a line of text should be at this width."""
    black = np.zeros((width // 2, width, 3), np.uint8)
    box = [[width // 4, width // 5, width // 2, width // 3]]
    heights, widths = [], []
    for reason in ("", "score"):
        drawn = draw_boxes(black, box, [0], [0.5], ["car"], reasons=[reason])
        above = drawn[: width // 5 - 6].max(axis=2) > 60
        rows, columns = above.any(axis=1).nonzero()[0], above.any(axis=0).nonzero()[0]
        heights.append(np.ptp(rows) / width)
        widths.append(np.ptp(columns))
    assert widths[1] > 1.5 * widths[0]
    assert all(0.008 < h < 0.03 for h in heights), "letters of 1 to 2 per cent of the width"


def test_labels_of_a_crowd_do_not_hide_each_other():
    placed, text_height = [], 14
    boxes = [(400 + 3 * i, 200 + 2 * i, 480 + 3 * i, 260 + 2 * i) for i in range(14)]
    for i, box in enumerate(boxes):
        _label_place(f"motorcycle 0.{i:02d}: score", box, text_height, (400, 800, 3), placed)
    assert len(placed) == 14
    for i, (p, size) in enumerate(placed):
        assert 0 <= p[0] and p[0] + size[0] <= 800 and 0 <= p[1] and p[1] + size[1] <= 400
        assert not any(_overlap(p, size, q, other) for q, other in placed[:i])


def test_the_panel_counts_pseudo_boxes_and_rejected_ones():
    rows = torch.tensor([[10.0, 10, 50, 50, 0.9], [12, 10, 50, 50, 0.8], [60, 60, 90, 90, 0.5], [5, 60, 20, 90, 0.3]])
    found = Instances((100, 100), pred_boxes=Boxes(rows[:, :4]), scores=rows[:, 4], pred_classes=torch.zeros(4).long())
    select = dict(score_threshold=0.6, nms_threshold=0.3, max_boxes=100, min_size=0.0)
    picture = np.zeros((100, 100, 3), np.uint8)
    panels = {most: _pseudo_box_panels(select, picture, picture, found, ["car"], most) for most in (0, 2, 10)}
    assert panels[10][0][0] == "teacher's pseudo-boxes (1), 3 rejected dashed"
    assert panels[2][0][0] == "teacher's pseudo-boxes (1), 2 best of 3 rejected dashed"
    weakest = slice(500, 720), slice(20, 170)  # the box of score 0.3, in a picture of 800 pixels
    assert panels[10][0][1][weakest].any() and not panels[2][0][1][weakest].any()
    assert np.array_equal(panels[0][0][1], panels[0][1][1]), "the masked view shows pseudo-boxes alone"


def test_long_rows_of_a_contact_sheet_go_on_in_the_next_line():
    row = [(str(i), np.full((50, 400, 3), 10 * i, np.uint8)) for i in range(5)]
    sheet = contact_sheet([row, row[:2]], columns=3)
    cell = sheet.shape[0] // 3
    assert sheet.shape == (3 * cell, 1200, 3)
    values = [[int(sheet[r * cell + cell - 5, c * 400 + 200, 0]) for c in range(3)] for r in range(3)]
    assert values == [[0, 10, 20], [30, 40, 255], [0, 10, 255]]
