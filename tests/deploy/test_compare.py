"""The comparison of answers, against differences made by hand."""

import numpy as np
import pytest

from mic_det.deploy.compare import compare
from mic_det.inference.detections import Detections


def answer(boxes, scores, classes, labels=None):
    found = {"instances": Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores), np.array(classes))}
    return found if labels is None else {**found, "label_map": np.array(labels)}


BOXES = [[0, 0, 10, 10], [20, 20, 40, 50]]
FIRST = answer(BOXES, [0.9, 0.5], [1, 2])


def test_sets_are_equal_in_any_order():
    result = compare(FIRST, answer(BOXES[::-1], [0.5, 0.9], [2, 1]))
    assert result.equal and result.count == 2 and result.box == result.score == 0
    assert compare(answer([], [], []), answer([], [], [])).equal


@pytest.mark.parametrize(
    ("boxes", "scores", "classes"),
    [
        ([[0, 0, 10, 10.11], BOXES[1]], [0.9, 0.5], [1, 2]),
        (BOXES, [0.9, 0.5011], [1, 2]),
        (BOXES, [0.9, 0.5], [1, 1]),
        (BOXES[:1], [0.9], [1]),
        ([*BOXES, BOXES[1]], [0.9, 0.5, 0.5], [1, 2, 2]),
        ([], [], []),
    ],
    ids=["box", "score", "class", "one less", "one twice", "none"],
)
def test_what_differs_is_seen_from_both_sides(boxes, scores, classes):
    other = answer(boxes, scores, classes)
    assert not compare(FIRST, other).equal and not compare(other, FIRST).equal
    assert "only in" in str(compare(FIRST, other))


def test_small_differences_count_as_equal_and_are_told():
    result = compare(FIRST, answer([[0, 0.05, 10, 10], BOXES[1]], [0.9, 0.5005], [1, 2]))
    assert result.equal and result.box == pytest.approx(0.05) and result.score == pytest.approx(0.0005)


def test_label_maps_must_agree_in_999_of_1000_pixels():
    labels = np.zeros((50, 40), int)
    other = labels.copy()
    other[0, :2] = 1  # 2 of 2000
    first = answer([], [], [], labels)
    assert compare(first, answer([], [], [], other)).equal
    other[0, 2] = 1
    result = compare(first, answer([], [], [], other))
    assert not result.equal and result.pixels == pytest.approx(1 - 3 / 2000)
    assert compare(first, answer([], [], [], labels.T)).pixels == 0
