"""Undecided boxes: labels of anchors and proposals against brute force, and no gradient from their places."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou

from helpers.consistency import masked, student_of, supervised, views_of
from helpers.models import C4, some_boxes, source_input, target_input, tiny_cfg
from mic_det.modeling.pseudo_labels import select_pseudo_boxes, undecided_boxes
from mic_det.modeling.regions import rpn_predictions
from mic_det.modeling.tasks.region_consistency import ConsistencyWeights
from mic_det.modeling.tasks.region_sampling import not_background, sample_anchors, sample_proposals

# all anchors and proposals that may be sampled are
EVERYTHING = {"MODEL__RPN__BATCH_SIZE_PER_IMAGE": 100000, "MODEL__RPN__POSITIVE_FRACTION": 1.0,
              "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 1000, "MODEL__ROI_HEADS__POSITIVE_FRACTION": 1.0}  # fmt: skip
TERMS = ConsistencyWeights(1.0, 1.0, 1.0, 1.0, quality="none")
# Beside, over and far from the sure boxes. No two anchors overlap one of them equally.
UNDECIDED = torch.tensor(
    [[2.3, 30.1, 44.9, 62.4], [60.2, 2.7, 93.1, 40.6], [51.3, 20.9, 89.2, 60.4], [19.3, 38.1, 29.4, 45.2]]
)


def sure_boxes(classes=(0, 2)):
    targets = some_boxes(classes=classes)
    targets.gt_boxes.tensor += torch.tensor([0.3, 0.6, 0.8, 1.1])
    return targets


def iou(a, b):
    common = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return common / (areas - common)


def anchor_labels(anchors, sure, undecided):
    """Labels by the rules of Faster R-CNN: 0.7 and 0.3, and the best anchor of each box; then undecided ones."""

    def kinds(boxes):
        table = [[iou(box, anchor) for anchor in anchors] for box in boxes]
        best = [max(row) for row in table]
        labels = []
        for column in range(len(anchors)):
            own = [row[column] for row in table]
            top = max(own, default=0.0)
            is_best = any(x == y > 0 for x, y in zip(own, best))
            labels.append(1 if top >= 0.7 or is_best else 0 if top < 0.3 else -1)
        return labels

    labels, others = kinds(sure), kinds(undecided)
    return [-1 if label == 0 and other != 0 else label for label, other in zip(labels, others)]


@pytest.mark.parametrize("classes", [(0, 2), ()])
def test_labels_of_anchors_equal_brute_force(classes):
    student = student_of(**EVERYTHING)
    views = views_of(student, [sure_boxes(classes)], undecided=[UNDECIDED])
    anchors, logits, deltas = rpn_predictions(student.proposal_generator, views.features)
    labels = sample_anchors(student.proposal_generator, anchors, logits, deltas, views).labels[0].tolist()
    sure = views.targets[0].gt_boxes.tensor.tolist()
    expected = anchor_labels(Boxes.cat(anchors).tensor.tolist(), sure, UNDECIDED.tolist())
    assert labels == expected
    without = anchor_labels(Boxes.cat(anchors).tensor.tolist(), sure, [])
    freed = [(a, b) for a, b in zip(without, expected) if a != b]
    assert len(freed) > 5 and set(freed) == {(0, -1)}, "background is left out, and nothing else changes"


@pytest.mark.parametrize("overrides", [{}, C4])
@pytest.mark.parametrize("classes", [(0, 2), ()])
def test_labels_of_proposals_equal_brute_force(classes, overrides):
    student = student_of(**EVERYTHING, **overrides)
    g = torch.Generator().manual_seed(0)
    corner, size = torch.rand(400, 2, generator=g) * 60, torch.rand(400, 2, generator=g) * 40 + 4
    near = UNDECIDED[torch.arange(100) % 4] + 4 * torch.rand(100, 4, generator=g)
    boxes = torch.cat([torch.cat([corner, corner + size], 1), near])
    target = some_boxes(classes=classes)
    proposals = [Instances((64, 96), proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes)))]
    views = views_of(student, [target], undecided=[UNDECIDED])
    (sampled,) = sample_proposals(student.roi_heads, proposals, views)
    found = {tuple(b): c for b, c in zip(sampled.proposal_boxes.tensor.tolist(), sampled.gt_classes.tolist())}
    expected, left_out = {}, 0
    sure, undecided = target.gt_boxes.tensor.tolist(), UNDECIDED.tolist()
    for box in boxes.tolist() + sure:
        overlaps = [iou(box, x) for x in sure]
        if max(overlaps, default=0) >= 0.5:
            expected[tuple(box)] = classes[overlaps.index(max(overlaps))]
        elif max(iou(box, x) for x in undecided) < 0.5:
            expected[tuple(box)] = 3
        else:
            left_out += 1
    assert found == expected and left_out > 20
    assert set(found.values()) == {*classes, 3}


def test_the_rule_is_that_of_detectron2s_matcher():
    g = torch.Generator().manual_seed(0)
    corner, size = torch.rand(300, 2, generator=g) * 60, torch.rand(300, 2, generator=g) * 30 + 1
    boxes = torch.cat([corner, corner + size], 1)
    for thresholds, labels in (([0.3, 0.7], [0, -1, 1]), ([0.5], [0, 1]), ([0.1, 0.4], [-1, 0, 1])):
        for low_quality in (False, True):
            matcher = Matcher(thresholds, labels, allow_low_quality_matches=low_quality)
            _, theirs = matcher(pairwise_iou(Boxes(boxes[:20]), Boxes(boxes[20:])))
            ours = not_background(matcher, boxes[:20], Boxes(boxes[20:]))
            assert torch.equal(ours, theirs != 0) and ours.any() and not ours.all()
            none = not_background(matcher, boxes[:0], Boxes(boxes[20:]))
            assert none.shape == (280,) and not none.any()


def test_no_background_gradient_comes_from_the_place_of_an_undecided_box():
    student = student_of(**EVERYTHING)
    targets = [sure_boxes(), sure_boxes((1,))]
    views = {"undecided": [UNDECIDED, UNDECIDED[:0]]}
    grads = []

    def note(module, args, output):
        for x in output[0]:
            x.retain_grad()
        grads.append(output[0])

    student.proposal_generator.rpn_head.register_forward_hook(note)
    masked(student, targets, TERMS, **views)["loss_rpn_cls"].backward()
    gradient = torch.cat([x.grad.permute(0, 2, 3, 1).flatten(1) for x in grads[0]], dim=1)
    maps = [student.backbone(torch.zeros(1, 3, 64, 96))[f] for f in student.proposal_generator.in_features]
    anchors = Boxes.cat(student.proposal_generator.anchor_generator(maps)).tensor.tolist()
    before = anchor_labels(anchors, targets[0].gt_boxes.tensor.tolist(), [])
    after = anchor_labels(anchors, targets[0].gt_boxes.tensor.tolist(), UNDECIDED.tolist())
    places = torch.tensor([a != b for a, b in zip(before, after)])
    background = torch.tensor([x == 0 for x in after])
    assert places.sum() > 5 and (gradient[0, places] == 0).all() and (gradient[0, background] > 0).all()
    assert (gradient[1, places] != 0).any(), "the image without undecided boxes is taught there"


def test_an_undecided_box_at_the_place_of_a_sure_one_changes_nothing():
    student = student_of()
    targets = [some_boxes(), some_boxes(classes=())]
    plain = masked(student, targets, TERMS)
    same = masked(student, targets, TERMS, undecided=[targets[0].gt_boxes.tensor, torch.zeros(0, 4)])
    for name, value in plain.items():
        assert torch.equal(same[name], value)


def test_the_student_is_left_as_it_was():
    student = student_of()
    before = {part: dict(part.__dict__) for part in (student.proposal_generator, student.roi_heads)}
    masked(student, [some_boxes()], TERMS, undecided=[UNDECIDED])
    for part, attributes in before.items():
        assert part.__dict__ == attributes
    targets = [some_boxes(), some_boxes(classes=(1,))]
    ours, theirs = masked(student, targets, TERMS), supervised(student, targets)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


def detections():
    rows = torch.tensor([
        [10.0, 10, 30, 30, 0.9, 0],  # a pseudo-box
        [11.0, 10, 30, 30, 0.85, 0],  # overlapped by it
        [10.0, 10, 30, 30, 0.6, 1],  # its box as another class
        [40.0, 10, 60, 30, 0.3, 2],  # just enough
        [70.0, 10, 90, 30, 0.29, 2],  # too low
        [70.0, 40, 72, 60, 0.95, 1],  # too small
        [96.0, 40, 96, 60, 0.7, 1],  # without width
        [40.0, 40, 60, 60, 0.82, 1],  # one too many
    ])  # fmt: skip
    return Instances((64, 96), pred_boxes=Boxes(rows[:, :4]), scores=rows[:, 4], pred_classes=rows[:, 5].long())


def test_undecided_boxes_by_hand():
    found = detections()
    pseudo = select_pseudo_boxes(found, 0.8, 0.5, max_boxes=1, min_size=4.0)
    assert pseudo.gt_boxes.tensor.tolist() == [[10, 10, 30, 30]]
    boxes = undecided_boxes(found, pseudo, 0.3)
    assert torch.equal(boxes, found.pred_boxes.tensor[[1, 2, 3, 5, 7]])
    none = select_pseudo_boxes(found, 1.0)
    assert torch.equal(undecided_boxes(found, none, 0.3), found.pred_boxes.tensor[[0, 1, 2, 3, 5, 7]])
    assert undecided_boxes(found[:0], none, 0.3).shape == (0, 4)


@pytest.mark.parametrize("domains", ["target", "both"])
@pytest.mark.parametrize("empty_images", ["skip", "background"])
def test_a_step_leaves_them_out_and_logs_their_number(storage, empty_images, domains):
    """The teacher's detections are given; losses are those of the same boxes, sampled without the undecided places."""
    keys = {"MODEL__MIC__PSEUDO_BOXES__IGNORE_SCORE": 0.3, "MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD": 0.8,
            "MODEL__MIC__CONSISTENCY__EMPTY_IMAGES": empty_images, "MODEL__MIC__MASK__DOMAINS": domains}  # fmt: skip
    proposals = {"MODEL__RPN__PRE_NMS_TOPK_TRAIN": 1000, "MODEL__RPN__POST_NMS_TOPK_TRAIN": 1000}
    model = build_model(tiny_cfg(**keys, **EVERYTHING, **proposals)).train()
    model.begin_step()
    found = detections()
    model.teacher.roi_heads.forward = lambda *_: ([found, found[3:5]], {})
    losses = model([source_input(), target_input(), target_input(5)])
    assert all(v.isfinite() and v > 0 for v in losses.values())
    # the pseudo-boxes: 0, 5 and 7; undecided 1, 2 and 3 of the first image, and 3 alone of the second
    assert storage.latest()["pseudo/num_boxes"][0] == 1.5
    assert storage.latest()["pseudo/num_undecided"][0] == 2
    if domains == "target":  # regions of the first image are fewer than without
        fewer = storage.latest()["masked/roi_head/num_bg_samples"][0]
        model.task("boxes").ignore_score = 0.0
        model([source_input(), target_input(), target_input(5)])
        assert fewer < storage.latest()["masked/roi_head/num_bg_samples"][0]
