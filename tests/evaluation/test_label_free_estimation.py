"""AP50 without labels: AP by pycocotools, the regression by numpy's least squares, intervals by simulation."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from helpers.data import disturb
from helpers.models import tiny_cfg
from mic_det.data.corruptions import CORRUPTIONS, KINDS, LEVELS, Corruption, road_distance
from mic_det.data.fog import add_fog, estimate_airlight
from mic_det.evaluation.label_free import estimation as e
from mic_det.evaluation.label_free.average_precision import MatchedBoxes
from mic_det.evaluation.label_free.criteria import agreement, mean, mean_agreement, mean_score, stability
from mic_det.evaluation.label_free.measure import Images
from mic_det.evaluation.label_free.meta_set import build_meta_set, corrupted, set_statistics
from mic_det.evaluation.label_free.passes import look
from mic_det.evaluation.label_free.predictions import BoxPredictions

K = 3


def scene(rng, images=12):
    """Random true boxes, and predictions that are moved, missed, doubled and of wrong classes."""
    predictions, boxes, classes = [], [], []
    for _ in range(images):
        n = int(rng.integers(0, 6))
        corner = rng.uniform(0, 60, (n, 2))
        truth = np.hstack([corner, corner + rng.uniform(8, 40, (n, 2))])
        label = rng.integers(0, K - 1, n) if rng.uniform() < 0.7 else rng.integers(0, K, n)
        chosen = rng.integers(0, n, int(rng.integers(0, 9))) if n else np.zeros(0, int)
        found = truth[chosen] + rng.normal(0, 3, (len(chosen), 4))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        guess = np.where(rng.uniform(size=len(chosen)) < 0.8, label[chosen], rng.integers(0, K, len(chosen)))
        predictions.append(BoxPredictions(found, rng.uniform(size=len(chosen)), guess))
        boxes.append(truth)
        classes.append(label)
    return predictions, boxes, classes


def pycocotools_ap50(predictions, boxes, classes, weights):
    """By COCO's own code; an image of weight w is there w times."""
    images, truth, found = [], [], []
    for p, b, c, w in zip(predictions, boxes, classes, weights):
        for _ in range(int(w)):
            images.append({"id": len(images) + 1})
            for (x0, y0, x1, y1), k in zip(b.tolist(), c.tolist()):
                box = [x0, y0, x1 - x0, y1 - y0]
                truth.append({"id": len(truth) + 1, "image_id": len(images), "category_id": k + 1, "bbox": box,
                              "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
            for (x0, y0, x1, y1), s, k in zip(p.boxes.tolist(), p.scores.tolist(), p.classes.tolist()):
                found.append(
                    {"image_id": len(images), "category_id": k + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": s}
                )
    if not found:  # which pycocotools refuses
        return np.array([0.0 if any(x["category_id"] == k + 1 for x in truth) else math.nan for k in range(K)])
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": truth, "categories": [{"id": k + 1} for k in range(K)]}
        coco.createIndex()
        judged = COCOeval(coco, coco.loadRes(found), "bbox")
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][0, :, :, 0, -1]
    return np.array([100 * x.mean() if x.max() > -1 else math.nan for x in precision.T])


@pytest.mark.parametrize("seed", range(12))
def test_ap50_is_pycocotools_also_of_images_that_count_several_times(seed):
    rng = np.random.default_rng(seed)
    parts = scene(rng)
    matched = MatchedBoxes(*parts, K)
    for weights in (np.ones(12), rng.integers(0, 4, 12), np.eye(12)[0] + np.eye(12)[3]):
        expected = pycocotools_ap50(*parts, weights)
        np.testing.assert_allclose(matched.of_classes(weights), expected, atol=1e-9)
        if np.isfinite(expected).any():
            assert matched(weights) == pytest.approx(np.nanmean(expected))


def test_nothing_predicted_is_0_and_nothing_there_is_undefined():
    nothing = [BoxPredictions(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))]
    matched = MatchedBoxes(nothing, [np.array([[0, 0, 9, 9.0]])], [np.array([1])], K)
    np.testing.assert_array_equal(matched.of_classes(), [math.nan, 0, math.nan])
    assert math.isnan(MatchedBoxes(nothing, [np.zeros((0, 4))], [np.zeros(0, int)], K)())


def test_ridge_is_least_squares_on_data_with_the_penaltys_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (20, 4)), rng.uniform(20, 60, 20)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    rows, values = np.vstack([z, math.sqrt(0.7) * np.eye(4)]), np.append(y - y.mean(), np.zeros(4))
    weights = np.linalg.lstsq(rows, values, rcond=None)[0]
    new = rng.normal(3, 2, (5, 4))
    expected = np.clip((new - x.mean(axis=0)) / x.std(axis=0) @ weights + y.mean(), 0, 100)
    np.testing.assert_allclose(e.Regression(x, y, 0.7)(new), expected)
    constant = np.hstack([x, np.ones((20, 1))])  # a feature that says nothing
    np.testing.assert_allclose(e.Regression(constant, y, 0.7)(np.hstack([new, np.ones((5, 1))])), expected)


def test_errors_are_those_of_kinds_that_the_regression_has_not_seen():
    x = np.array([[0.0], [1], [2], [3], [4], [5]])
    y = np.array([0.0, 10, 20, 30, 40, 80])
    kinds = ["a", "a", "b", "b", "c", "c"]
    errors = e.left_out_errors(x, y, kinds, ridge=1e-9)
    np.testing.assert_allclose(errors[4:], [0, 30], atol=1e-6)
    assert e.conformal_quantile(np.arange(1.0, 20), 0.9) == 18 and e.conformal_quantile(np.arange(5.0), 0.9) == 4


def simulated(rng, kinds=6, each=4, noise=4.0, target=0.5):
    """AP50 is linear in a hidden quality; two noisy features of it."""
    quality = rng.uniform(0.1, 0.9, kinds * each)
    bias = np.repeat(rng.normal(0, noise / 2, kinds), each)
    values = 100 * quality + bias + rng.normal(0, noise / 2, len(quality))
    features = np.stack([quality, 2 * quality + rng.normal(0, 0.05, len(quality))], axis=1)
    truth = 100 * target + rng.normal(0, noise / 2) + rng.normal(0, noise / 2)
    resampled = np.array([target, 2 * target]) + rng.normal(0, 0.01, (50, 2))
    return features, values, np.repeat(np.arange(kinds), each), np.array([target, 2 * target]), resampled, truth


def test_the_interval_covers_the_truth_of_most_simulated_targets():
    rng = np.random.default_rng(0)
    inside, widths = 0, []
    for _ in range(200):
        x, y, kinds, target, resampled, truth = simulated(rng)
        found, _ = e.estimate(x, y, kinds, target, resampled, ("a", "b"))
        inside += found.low <= truth <= found.high
        widths.append(found.high - found.low)
        assert not found.outside
    assert 0.85 <= inside / 200 <= 1 and np.mean(widths) < 30


def test_a_target_outside_of_the_meta_set_is_named_and_too_few_sets_give_no_estimate():
    rng = np.random.default_rng(1)
    x, y, kinds, _, resampled, _ = simulated(rng)
    found, _ = e.estimate(x, y, kinds, [0.5, 9.0], resampled, ("a", "b"))
    assert found.outside == ["b"]
    few = np.where(np.arange(len(y)) < 7, y, math.nan)
    assert e.estimate(x, few, kinds, [0.5, 1.0], resampled, ("a", "b")) == (None, None)


def test_prediction_powered_is_unbiased_and_narrower_than_the_labels_alone():
    """A mean in place of AP: the classical estimate is the labelled mean; the regression is correlated, with a bias."""
    rng = np.random.default_rng(0)
    errors, halves, classical, inside = [], [], [], 0
    for _ in range(200):
        truth = rng.normal(50, 10, 400)
        guess = truth + 8 + rng.normal(0, 4, 400)
        near, far = slice(0, 20), slice(20, 400)
        w, v = rng.multinomial(20, [1 / 20] * 20, 200) / 20, rng.multinomial(380, [1 / 380] * 380, 200) / 380
        found, weight = e.prediction_powered(
            (truth[near].mean(), w @ truth[near]), (guess[near].mean(), w @ guess[near]),
            (guess[far].mean(), v @ guess[far]),
        )  # fmt: skip
        errors.append(found.value - 50)
        halves.append(found.high - found.value)
        classical.append(1.645 * (w @ truth[near]).std())
        inside += found.low <= 50 <= found.high
        assert 0.5 < weight <= 1
    assert abs(np.mean(errors)) < 0.5 and np.mean(halves) < 0.6 * np.mean(classical)
    assert inside / 200 > 0.8


def test_two_estimates_are_pooled_by_their_variances():
    both = e.pooled(e.Estimate(50, 40, 60, ["x"]), e.Estimate(56, 51, 61))
    assert both.value == pytest.approx((50 / 100 + 56 / 25) / (1 / 100 + 1 / 25))
    assert both.high - both.value == pytest.approx(1 / math.sqrt(1 / 100 + 1 / 25)) and both.outside == ["x"]


def picture(seed=0):
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (16, 24, 3)), np.ones((4, 4, 1))).astype(np.uint8)


def test_corruptions_change_images_more_at_each_level_and_are_the_same_each_time():
    image = np.kron(picture(), np.ones((4, 4, 1), np.uint8))
    for function, levels in LEVELS.items():
        changes = [np.abs(function(image, x).astype(float) - image).mean() for x in levels]
        assert changes == sorted(changes) and changes[0] > 0.3, function.__name__
        found = function(image, levels[-1])
        assert found.dtype == np.uint8 and found.shape == image.shape
        np.testing.assert_array_equal(found, function(image, levels[-1]))
    assert len(CORRUPTIONS) == 1 + sum(map(len, LEVELS.values())) and set(KINDS) == {f.__name__ for f in LEVELS}
    np.testing.assert_array_equal(Corruption()(image), image)


def test_fog_is_fog_pys_over_a_flat_road():
    distance = road_distance(100, 4)
    assert (distance[:46] == 80).all() and distance[-1, 0] == pytest.approx(5 * 0.55 / 0.545)
    assert distance[72, 0] == pytest.approx(5 * 0.55 / 0.275)  # half way down: twice as far
    image = picture()
    expected = add_fog(image, road_distance(64, 96), 0.02, estimate_airlight(image))
    np.testing.assert_array_equal(Corruption("fog", 0.02)(image), expected)


def test_contrast_and_darkness_by_hand():
    image = np.array([[[100, 0, 0], [200, 0, 50]]], np.uint8)
    assert Corruption("contrast", 0.5)(image).tolist() == [[[125, 0, 12], [175, 0, 38]]]
    dark = np.full((200, 200, 3), 200, np.uint8)
    assert Corruption("darkness", 0.5)(dark).mean() == pytest.approx(100, abs=0.5)


def model():
    torch.manual_seed(0)
    cfg = tiny_cfg(MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.2)
    return disturb(build_model(cfg), 3).eval()


def images(count=5):
    items = [(i, torch.from_numpy(picture(i)).permute(2, 0, 1)) for i in range(count)]
    boxes = [np.array([[4.0, 4, 30, 30], [20, 10, 40, 36]])] * count
    return Images(items, boxes, [np.array([i % 3, 1]) for i in range(count)])


def test_features_of_weighted_images_are_those_of_the_repeated_images():
    mic, some = model(), images()
    found = set_statistics(mic, some.items, K)
    weights = np.array([[1, 1, 1, 1, 1], [2, 0, 0, 1, 3]])
    overall, each = found.features(weights)
    views = look(mic.teacher, some.items, None, ("flip", "masked", "dropout"))
    for w, o, c in zip(weights, overall, each):
        chosen = np.repeat(np.arange(5), w)
        whole, flip, mask, drop = ([views[v][i] for i in chosen] for v in ("whole", "flip", "masked", "dropout"))
        scores = mean_score(whole).sum(axis=0)
        expected = [
            mean_agreement(agreement(whole, flip, K).sum(axis=0)),
            mean_agreement(agreement(whole, mask, K).sum(axis=0)),
            mean(stability(whole, drop).sum(axis=0)),
            mean(scores),
            math.log(scores[0] / len(whole) + 0.05),
        ]
        np.testing.assert_allclose(o, expected, rtol=1e-6)
        assert c[:, 0].mean() == pytest.approx(expected[0]) and c[:, 1].mean() == pytest.approx(expected[1])
    np.testing.assert_allclose(found.features()[0], overall[0])


def test_the_meta_set_has_the_ap50_of_each_corrupted_copy():
    mic, some = model(), images()
    chosen = (Corruption(), Corruption("fog", 0.02), Corruption("blur", 10.0))
    meta = build_meta_set(mic, some, K, chosen)
    assert (
        meta.kinds == ["none", "fog", "blur"]
        and meta.features.shape == (3, 5)
        and meta.class_features.shape == (3, K, 4)
    )
    again = set_statistics(mic, [(n, corrupted(x, chosen[1])) for n, x in some.items], K)
    matched = MatchedBoxes(again.predictions, some.boxes, some.classes, K)
    np.testing.assert_array_equal(meta.class_ap50[1], matched.of_classes())
    np.testing.assert_array_equal(meta.features[1], again.features()[0])
    assert not np.array_equal(meta.features[0], meta.features[2])
