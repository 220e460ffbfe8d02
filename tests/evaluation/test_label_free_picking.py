"""The images that are most worth a label, by hand and against a plain loop."""

import numpy as np
import pytest

from mic_det.evaluation.label_free.picking import descriptors, disagreement, pick
from mic_det.evaluation.label_free.predictions import BoxPredictions

A, B = [0.0, 0, 10, 10], [20.0, 0, 30, 10]


def found(boxes, scores, classes, features=None):
    boxes = np.array(boxes, float).reshape(-1, 4)
    features = None if features is None else np.array(features, float)
    return BoxPredictions(boxes, np.array(scores, float), np.array(classes, int), None, features)


def test_disagreement_is_the_score_that_other_views_do_not_confirm():
    whole = [found([A, B], [0.8, 0.6], [0, 1]), found([], [], []), found([A], [0.5], [0])]
    flip = [found([A], [0.4], [0]), found([], [], []), found([A], [0.5], [0])]
    masked = [found([A, B], [0.8, 0.6], [0, 1]), found([B], [0.3], [0]), found([A], [0.5], [1])]
    # image 0: (1.4 + 0.4) / 2 - 0.4 and 0; image 1: 0 and 0.15; image 2: 0, and 0.5 of another class
    expected = [0.25, 0.075, 0.25]
    np.testing.assert_allclose(disagreement({"whole": whole, "flip": flip, "masked": masked}, 2), expected)


def test_descriptors_are_weighted_directions():
    rows = descriptors([found([A, B], [0.5, 1.0], [0, 0], [[4, 0], [0, 1]]), found([], [], [], np.zeros((0, 2)))])
    np.testing.assert_allclose(rows[0], np.array([2, 1]) / np.sqrt(5))
    assert not rows[1].any()
    assert descriptors([found([A], [0.5], [0])]) is None


@pytest.mark.parametrize("seed", range(10))
def test_picks_are_those_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    doubt, vectors = rng.uniform(size=15), rng.normal(size=(15, 3))
    chosen = []
    for _ in range(6):
        best = None
        for i in set(range(15)) - set(chosen):
            far = min((np.linalg.norm(vectors[i] - vectors[j]) for j in chosen), default=1.0)
            worth = far * sum(x <= doubt[i] for x in doubt) / 15
            if best is None or worth > best[0]:
                best = (worth, i)
        chosen.append(best[1])
    assert pick(doubt, vectors, 6) == chosen
    assert sorted(pick(doubt, vectors, 99)) == list(range(15))


def test_a_copy_of_a_chosen_image_comes_last_and_doubt_alone_decides_without_vectors():
    vectors = np.array([[1.0, 0], [1, 0], [0, 1], [-1, 0]])
    assert pick([0.9, 0.8, 0.1, 0.2], vectors, 4)[-1] == 1
    assert pick([0.9, 0.8, 0.1, 0.2], None, 3) == [0, 1, 3]
