"""Criteria without labels, against values worked out by hand, scipy's Hungarian matching and brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import entropy as scipy_entropy
from scipy.stats import spearmanr
from torch import as_tensor
from torchvision.ops import box_iou

from mic_det.evaluation.label_free import criteria as c
from mic_det.evaluation.label_free.judging import judge, spearman
from mic_det.evaluation.label_free.lost_classes import class_scores, least_scores, lost_classes, named
from mic_det.evaluation.label_free.measure import Measured, Source
from mic_det.evaluation.label_free.predictions import BoxPredictions, best_pairs, pairwise_iou
from mic_det.evaluation.label_free.ranking import choose, combined, resampled_scores

A, B = [0, 0, 10, 10], [20, 0, 30, 10]
HALF = [0, 0, 10, 5]  # IoU 0.5 with A


def found(boxes, scores, classes, probs=None, features=None, removed=None):
    arrays = [None if x is None else np.array(x, float) for x in (probs, features)]
    return BoxPredictions(
        np.array(boxes, float).reshape(-1, 4), np.array(scores, float), np.array(classes, int), *arrays, removed
    )


NOTHING = found([], [], [], np.zeros((0, 3)), np.zeros((0, 2)), found([], [], []))


def random_predictions(rng, classes=3):
    n = int(rng.integers(0, 8))
    corner = rng.uniform(0, 30, (n, 2))
    probs = rng.dirichlet(np.ones(classes + 1), n)
    label = probs[:, :-1].argmax(axis=1) if n else np.zeros(0, int)
    boxes = np.hstack([corner, corner + rng.uniform(5, 25, (n, 2))])
    return found(boxes, rng.uniform(0.05, 1, n), label, probs, rng.normal(size=(n, 4)))


@pytest.mark.parametrize("seed", range(60))
def test_pairs_have_the_gain_of_scipys_hungarian_matching(seed):
    rng = np.random.default_rng(seed)
    gain = rng.uniform(size=rng.integers(1, 9, 2)) * (rng.uniform(size=1) > 0.1)
    gain[rng.uniform(size=gain.shape) < 0.4] = 0
    if seed % 3 == 0:
        gain = np.round(gain, 1)  # ties
    i, j = best_pairs(gain)
    assert len(set(i)) == len(i) and len(set(j)) == len(j) and (gain[i, j] > 0).all()
    assert gain[i, j].sum() == pytest.approx(gain[linear_sum_assignment(gain, maximize=True)].sum(), abs=1e-12)


def test_no_boxes_have_no_pairs():
    for shape in ((0, 0), (0, 3), (2, 0), (2, 2)):
        assert [len(x) for x in best_pairs(np.zeros(shape))] == [0, 0]


def test_iou_is_torchvisions():
    rng = np.random.default_rng(0)
    a, b = (random_predictions(rng).boxes for _ in range(2))
    a = np.vstack([a, [[5, 5, 5, 9]]])  # without area
    expected = box_iou(as_tensor(a), as_tensor(b)).numpy()
    np.testing.assert_allclose(pairwise_iou(a, b), expected, atol=1e-12)


def test_agreement_of_two_predictions_by_hand():
    first = [found([A, B], [0.8, 0.5], [0, 1])]
    second = [found([HALF, B], [0.6, 0.4], [0, 0])]  # the second box has another class
    # class 0: pair A, HALF: 2 * 0.5 * 0.6; scores 0.8 + 0.6 + 0.4. Class 1: no pair, 0.5. Class 2: nowhere
    np.testing.assert_allclose(c.agreement(first, second, 3), [[0.6, 0, 0, 1.8, 0.5, 0]])
    assert c.mean_agreement(c.agreement(first, second, 3).sum(axis=0)) == pytest.approx(0.6 / 1.8 / 3)
    same = c.agreement(first, first, 2).sum(axis=0)
    assert c.mean_agreement(same) == pytest.approx(1)
    assert c.mean_agreement(c.agreement([NOTHING], [NOTHING], 2).sum(axis=0)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_agreement_pairs_as_well_as_any_pairing(seed):
    rng = np.random.default_rng(seed)
    a, b = random_predictions(rng), random_predictions(rng)
    expected = np.zeros((2, 3))
    for k in range(3):
        x, y = a.of(a.classes == k), b.of(b.classes == k)
        iou = box_iou(as_tensor(x.boxes), as_tensor(y.boxes)).numpy()
        gain = np.where(iou >= 0.5, iou * np.minimum.outer(x.scores, y.scores), 0)
        if len(x) > len(y):
            gain = gain.T
        rows = range(len(gain))
        best = max(
            sum(gain[i, j] for i, j in zip(rows, p)) for p in itertools.permutations(range(gain.shape[1]), len(gain))
        )
        expected[:, k] = 2 * best, x.scores.sum() + y.scores.sum()
    np.testing.assert_allclose(c.agreement([a], [b], 3), [expected.ravel()], atol=1e-12)


def test_drift_and_stability_by_hand():
    p, q = [0.7, 0.2, 0.1], [0.5, 0.25, 0.25]
    first = [found([A, B, A], [0.7, 0.9, 0.1], [0, 0, 1], [p, p, p])]  # the third is not sure
    second = [found([HALF], [0.5], [0], [q])]
    np.testing.assert_allclose(c.stability(first, second), [[0.5, 2]])
    np.testing.assert_allclose(c.drift(first, second), [[0.5 + 1 + scipy_entropy(p, q), 2]])
    assert c.mean(c.drift(first, first)[0]) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(c.drift([NOTHING], first), [[0, 0]])
    assert math.isnan(c.mean(np.zeros(2)))


def test_boxes_that_nms_removed_support_the_kept_one_by_hand():
    far, other_class = found([B], [0.4], [0]), found([A], [0.8], [1])
    removed = found([HALF, A, A, *far.boxes, *other_class.boxes], [0.4, 0.8, 0.2, 0.4, 0.8], [0, 0, 0, 0, 1])
    kept = [found([A, [50, 50, 60, 60]], [0.8, 0.6], [0, 0], removed=removed)]
    # HALF: 0.5 * 0.4 / 0.8; A: 1; A with score 0.2: 0.25. The second kept box has no support
    np.testing.assert_allclose(c.nms_consistency(kept), [[(0.25 + 1 + 0.25) / 3, 2]])
    np.testing.assert_allclose(c.nms_consistency([NOTHING]), [[0, 0]])


def test_entropies_are_scipys():
    p = [[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]]
    x = found([A, B], [0.6, 0.4], [0, 0], p)
    expected = 0.6 * scipy_entropy(p[0], base=3) + 0.4 * 1
    np.testing.assert_allclose(c.entropy([x, NOTHING]), [[expected, 1.0], [0, 0]])


def test_information_is_one_for_sure_boxes_of_all_classes_and_zero_for_one_class():
    sure = found([A, B], [1, 1], [0, 1], [[1, 0, 0], [0, 1, 0]])
    collapsed = found([A, B], [1, 1], [0, 0], [[1, 0, 0], [1, 0, 0]])
    unsure = found([A, B], [1, 1], [0, 1], [[0.5, 0.5, 0], [0.5, 0.5, 0]])
    values = [c.information(c.class_mass([x]).sum(axis=0)) for x in (sure, collapsed, unsure, NOTHING)]
    assert values == pytest.approx([1, 0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_neighbourhood_density_is_the_formulas(seed):
    rng = np.random.default_rng(seed)
    images = [random_predictions(rng) for _ in range(4)]
    p = [(i, v / np.linalg.norm(v)) for i, x in enumerate(images) for v, s in zip(x.probs, x.scores) if s >= 0.3]
    expected = np.zeros((4, 2))
    for a, (i, v) in enumerate(p):
        weights = [math.exp(float(v @ w) / 0.05) for b, (_, w) in enumerate(p) if b != a]
        expected[i] += scipy_entropy(weights), 1
    np.testing.assert_allclose(c.neighbourhood_density(images), expected, rtol=1e-9)


def test_counts_and_their_distance_by_hand():
    images = [found([A, A, B], [0.5, 0.9, 0.4], [0, 2, 2]), NOTHING]
    rows = c.box_counts(images, 3)
    assert rows.tolist() == [[1, 0, 1, 1], [0, 0, 0, 1]]
    source = Source(np.array([0.5, 2.0, 0.0]))
    expected = (0 + math.log(2.1 / 0.1) + math.log(0.6 / 0.1)) / 3
    assert c.count_distance(rows.sum(axis=0), source) == pytest.approx(expected)


def test_prototype_ratio_by_hand():
    source = Source(prototypes=np.array([[0.0, 0.0], [4.0, 0.0], [np.nan, np.nan]]))
    images = [found([A, A], [0.9, 0.8], [0, 0], features=[[1, 0], [3, 0]]), found([B], [0.2], [1], features=[[4, 0]])]
    total = c.class_features(images, 3).sum(axis=0)
    # class 0 is 2 away, the classes 4 from each other; class 1 has no sure box; class 2 is not in the source
    assert c.prototype_ratio(total, source) == pytest.approx((2 / 4 + 1) / 2)
    alike = Source(prototypes=np.zeros((3, 2)))
    assert math.isnan(c.prototype_ratio(total, alike))


def test_mean_score_by_hand():
    assert c.mean_score([found([A, B, B], [0.9, 0.5, 0.2], [0, 1, 1])]).tolist() == [[1.4, 2]]


@pytest.mark.parametrize("name", c.CRITERIA)
def test_every_criterion_is_as_good_as_it_says_in_its_direction(name):
    """A detector that is sure, consistent and like the source, and one that is not."""
    eye = np.eye(3)
    good = [found([A, B], [0.95, 0.95], [0, 1], eye[:2] * 0.94 + 0.02, [[0, 0], [4, 0]]) for _ in range(4)]
    flat = [[0.36, 0.34, 0.3], [0.34, 0.36, 0.3]]
    bad = [found([A, B], [0.36, 0.36], [0, 1], flat, [[9, 9], [9, 0]]) for _ in range(4)]
    moved = [found([[6, 0, 16, 10]], [0.4], [1], [[0.1, 0.8, 0.1]]) for _ in range(4)]
    for x in good:
        x.removed = found([A, B], [0.9, 0.9], [0, 1])
    for x in bad:
        x.removed = found([HALF], [0.1], [0])
    source = Source(np.array([1.0, 1.0]), np.array([[0.0, 0], [4, 0]]))
    views = ("flip", "masked", "other", "noise", "dropout")
    if name == "neighbourhood_density":  # two tight groups; boxes that are alone have no neighbours
        p = [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [0.45, 0.5, 0.05]]
        bad = [found([A], [0.5], [0], [x]) for x in p]
    pair = [{"whole": x, **dict.fromkeys(views, y)} for x, y in ((good, good), (bad, moved))]
    better, worse = (Measured({name: c.CRITERIA[name].statistics(v, 2)}, source).values[name] for v in pair)
    assert (better > worse) == c.CRITERIA[name].higher and better != worse


def test_resampled_scores_are_those_of_the_images_that_were_drawn():
    rng = np.random.default_rng(3)
    whole, flip = ([random_predictions(rng) for _ in range(6)] for _ in range(2))
    rows = c.CRITERIA["flip_agreement"].statistics({"whole": whole, "flip": flip}, 3)
    measured = Measured({"flip_agreement": rows}, Source())
    scores = resampled_scores(measured, {"flip_agreement": 1.0}, resamples=5, seed=1)
    for score, weights in zip(scores, np.random.default_rng(1).multinomial(6, [1 / 6] * 6, 5)):
        chosen = np.repeat(np.arange(6), weights)
        again = c.agreement([whole[i] for i in chosen], [flip[i] for i in chosen], 3).sum(axis=0)
        assert score == pytest.approx(c.mean_agreement(again))


def test_the_combination_is_a_weighted_mean_of_what_was_measured():
    weights = {"flip_agreement": 1, "count_distance": 3, "mask_agreement": 5}
    values = {"flip_agreement": 0.5, "count_distance": math.log(2), "entropy": 0.9}
    assert combined(values, weights) == pytest.approx((0.5 + 3 * 0.5) / 4)
    assert combined({**values, "mask_agreement": math.nan}, weights) == pytest.approx((0.5 + 3 * 0.5) / 9)
    assert math.isnan(combined({"entropy": 1.0}, weights))


def test_a_choice_says_how_sure_it_is_and_warns_of_a_better_start():
    resampled = np.array([[0.3, 0.6, 0.6, 0.6], [0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.9]])
    choice = choose([0.55, 0.5, 0.2], resampled, [False, True, False])
    assert (choice.order, choice.sure, choice.above_start, choice.start_is_best) == ([0, 1, 2], 0.5, 0.75, False)
    choice = choose([0.4, 0.5, math.nan], resampled, [False, True, False])
    assert (choice.best, choice.above_start, choice.start_is_best, choice.order[-1]) == (1, None, True, 2)


def test_scores_of_classes_are_sums_over_images_and_views():
    rng = np.random.default_rng(4)
    whole, flip = ([random_predictions(rng) for _ in range(5)] for _ in range(2))
    rows = c.CRITERIA["flip_agreement"].statistics({"whole": whole, "flip": flip}, 3)
    by_hand = [sum(x.scores[x.classes == k].sum() for x in whole + flip) / 2 / 5 for k in range(3)]
    assert class_scores(Measured({"flip_agreement": rows}, Source())) == pytest.approx(by_hand)
    assert class_scores(Measured({}, Source())) is None


@pytest.mark.parametrize("now, lost", [
    ([4, 0.26, 0], []),  # class 1 has 26 %, and the start has too little of class 2 to tell
    ([0.99, 0.24, 0.5], [0, 1]),
    ([0, 0, 0], [0, 1]),
    (None, []),
    ([1, 1], []),  # of another model
])  # fmt: skip
def test_lost_classes_by_hand(now, lost):
    least = least_scores("boxes", 10)  # one box in 10 images
    assert lost_classes([4, 1, 0.09], now, least) == lost
    assert lost_classes(None, now, least) == []


def test_how_much_of_a_class_the_start_must_predict():
    assert lost_classes([0.2, 0.0012, 0.0008], [0.2, 0.0002, 0.0], least_scores("pixels", 50)) == [1]
    assert [least_scores(kind, 50) * 50 for kind in ("boxes", "image_class")] == [1, 5]
    assert named([0, 2], ["car", "bus"]) == ["car", "class 2"]


def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 30), rng.integers(0, 6, 30) + np.arange(30) // 6
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_regret_and_collapsed_checkpoints_by_hand():
    start = {"run": "start", "step": 0, "start": True, "runs": ["x", "y"], "AP50": 50.0, "s": 0.5}
    x = [{"run": "x", "step": t, "start": False, "AP50": v, "s": s} for t, v, s in ((1, 60.0, 0.7), (2, 58.0, 0.8))]
    y = [
        {"run": "y", "step": t, "start": False, "AP50": v, "s": s} for t, v, s in ((1, 40.0, 0.6), (2, 30.0, math.nan))
    ]
    result = judge([start, *x, *y], lambda k: k["s"])
    # x: 60 - 58; y: the start is best, 50 - 40
    assert (result["regret"], result["last_regret"], result["runs"]) == ((2 + 10) / 2, (2 + 20) / 2, 2)
    assert (result["collapsed"], result["found"]) == (2, 1)
    assert result["regret_across"] == 2  # of all five: x's second is chosen, its first is the best
    order = [0.5, 0.7, 0.8, 0.6, -1]
    assert result["rho"] == pytest.approx(spearmanr(order, [50, 60, 58, 40, 30]).statistic)
    assert judge([{**start, "s": None}, *x, *y], lambda k: k["s"])["collapsed"] == 0
    files = [{**c, "file": str(i)} for i, c in enumerate([start, *x, *y])]
    twice = judge([*files, {**files[0], "run": "burn_in", "step": 9, "start": False}], lambda k: k["s"])
    assert twice["rho"] == result["rho"] and (twice["checkpoints"], twice["runs"]) == (5, 2)
