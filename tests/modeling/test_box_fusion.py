"""Weighted box fusion: against a case by hand, the paper's sequential algorithm, and the package ensemble_boxes."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from mic_det.modeling.box_fusion import LabellerFusion, fuse_detections

SIZE = (100, 200)


def detections(boxes, scores, classes):
    x = Instances(SIZE)
    x.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    x.scores = torch.tensor(scores, dtype=torch.float32)
    x.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return x


def rows(instances):
    """(class, score, box) of all rows with a score, sorted."""
    numbers = zip(instances.pred_classes.tolist(), instances.scores.tolist(), instances.pred_boxes.tensor.tolist())
    return sorted((c, round(s, 5), [round(v, 3) for v in b]) for c, s, b in numbers if s > 0)


def test_by_hand():
    teacher = detections([[0, 0, 10, 10], [50, 50, 70, 70]], [0.6, 0.9], [1, 0])
    other = detections([[2, 0, 10, 10], [50, 50, 70, 70], [100, 10, 120, 30]], [0.8, 0.9, 0.7], [1, 2, 0])
    fused = fuse_detections(teacher, other, trust=1.0)
    # IoU 0.8 and one class: (0.6 * 0 + 0.8 * 2) / 1.4; another class at the same place stays alone
    assert rows(fused) == [
        (0, 0.7, [100, 10, 120, 30]), (0, 0.9, [50, 50, 70, 70]), (1, 0.8, [1.143, 0, 10, 10]),
        (2, 0.9, [50, 50, 70, 70]),
    ]  # fmt: skip
    half = fuse_detections(teacher, other, trust=0.5)
    # the labeller's scores count half: (0.6 * 0 + 0.4 * 2) / 1.0, max(0.6, 0.5 * 0.8 + 0.5 * 0.6)
    assert rows(half) == [
        (0, 0.35, [100, 10, 120, 30]), (0, 0.9, [50, 50, 70, 70]), (1, 0.7, [0.8, 0, 10, 10]),
        (2, 0.45, [50, 50, 70, 70]),
    ]  # fmt: skip
    assert fused.image_size == SIZE


@pytest.mark.parametrize("trust", [0.2, 0.5, 1.0])
def test_a_silent_labeller_changes_nothing_and_a_labeller_lowers_no_score(trust):
    boxes = [[0, 0, 10, 10], [50, 50, 70, 70]]
    teacher = detections(boxes, [0.6, 0.9], [1, 0])
    silent = fuse_detections(teacher, detections([], [], []), trust)
    assert rows(silent) == rows(teacher)
    unsure = fuse_detections(teacher, detections(boxes, [0.1, 0.1], [1, 0]), trust)
    assert (unsure.scores[:2] >= teacher.scores).all()
    nothing = fuse_detections(detections([], [], []), teacher, trust)
    assert rows(nothing) == [(c, round(s * trust, 5), b) for c, s, b in rows(teacher)]


def test_replace_takes_the_labellers_boxes_as_they_are_until_its_last_step():
    teacher, other = detections([[0, 0, 10, 10]], [0.9], [1]), detections([[3, 0, 10, 10]], [0.4], [0])
    assert rows(LabellerFusion(replace=True)(teacher, other)) == rows(other)
    fusion = LabellerFusion(until_step=3)
    assert [fusion.active(step) for step in range(5)] == [True, True, True, False, False]
    assert LabellerFusion().active(10**6)


def scene(seed):
    """Two detectors that see most of some objects that lie apart, each with small errors and false boxes."""
    rng = np.random.default_rng(seed)
    places = [(x, y) for x in (5, 55, 105, 155) for y in (5, 55)]
    found = ([], [])
    for x, y in places:
        w, h, category = rng.uniform(20, 35), rng.uniform(20, 35), int(rng.integers(3))
        for boxes in found:
            if rng.random() < 0.7:
                wrong = rng.uniform(-2, 2, 4)
                other = category if rng.random() < 0.9 else (category + 1) % 3
                box = [x + wrong[0], y + wrong[1], x + w + wrong[2], y + h + wrong[3]]
                boxes.append((box, rng.uniform(0.1, 1), other))
    return [detections(*(list(v) for v in zip(*boxes)) if boxes else ([], [], [])) for boxes in found]


def wbf_reference(models, weights, iou_threshold, kind):
    """Weighted box fusion of two models as the paper describes it: box after box, by falling weighted score."""
    boxes = [
        (s * w, s, m, c, np.array(b))
        for m, (x, w) in enumerate(zip(models, weights))
        for b, s, c in zip(x.pred_boxes.tensor.tolist(), x.scores.tolist(), x.pred_classes.tolist())
    ]
    clusters = []
    for weighted, s, m, c, b in sorted(boxes, key=lambda x: -x[0]):
        best = max((x for x in clusters if x["class"] == c), key=lambda x: iou(x["box"], b), default=None)
        if best is None or iou(best["box"], b) <= iou_threshold:
            best = {"class": c, "members": []}
            clusters.append(best)
        best["members"].append((weighted, s, m, b))
        best["box"] = sum(w * x for w, _, _, x in best["members"]) / sum(w for w, *_ in best["members"])
    result = []
    for x in clusters:
        scores = [max([s for _, s, m, _ in x["members"] if m == k], default=0.0) for k in (0, 1)]
        score = sum(scores) / 2 if kind == "avg" else max(scores)
        result.append((x["class"], round(max(score, scores[0]), 5), [round(float(v), 3) for v in x["box"]]))
    return sorted(result)


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def same(found, expected):
    assert [x[0] for x in found] == [x[0] for x in expected]
    assert np.allclose([x[1] for x in found], [x[1] for x in expected], atol=2e-5)
    assert np.allclose([x[2] for x in found], [x[2] for x in expected], atol=2e-3)


@pytest.mark.parametrize("trust, kind", [(0.5, "avg"), (1.0, "max")])
@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_papers_algorithm(seed, trust, kind):
    models = scene(seed)
    same(rows(fuse_detections(*models, trust=trust)), wbf_reference(models, (1.0, trust), 0.55, kind))


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_ensemble_boxes(seed):
    """The package needs numba and pandas, so it is no part of the environment."""
    wbf = pytest.importorskip("ensemble_boxes").weighted_boxes_fusion
    models, scale = scene(seed), np.array([SIZE[1], SIZE[0]] * 2)
    inputs = [[(x.pred_boxes.tensor.numpy() / scale).clip(0, 1).tolist() for x in models]]
    inputs += [[x.scores.tolist() for x in models], [x.pred_classes.tolist() for x in models]]
    boxes, scores, labels = wbf(*inputs, weights=[1, 1], iou_thr=0.55, conf_type="max")
    same(rows(fuse_detections(*models, trust=1.0)), sorted(zip(labels, scores, (boxes * scale).tolist())))
    boxes, scores, labels = wbf(*inputs, weights=[1, 0.5], iou_thr=0.55)
    theirs = sorted(zip(labels.tolist(), (boxes * scale).tolist()))
    ours = sorted((c, b) for c, _, b in rows(fuse_detections(*models, trust=0.5)))
    assert [c for c, _ in ours] == [c for c, _ in theirs]
    assert np.allclose([b for _, b in ours], [b for _, b in theirs], atol=2e-3)
