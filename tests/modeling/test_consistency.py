"""L_M against Detectron2's own supervised losses, and the quality weights against hand-made values."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from conftest import C4, random_image, some_boxes, tiny_cfg
from mic_det.modeling import consistency
from mic_det.modeling.consistency import ConsistencyWeights, MaskedViews, masked_consistency_losses


def student_of(**overrides):
    return build_model(tiny_cfg(MODEL__META_ARCHITECTURE="GeneralizedRCNN", **overrides)).train()


def views_of(student, targets, used=None, background_prob=None):
    images = student.preprocess_image([{"image": random_image(seed=i)} for i in range(len(targets))])
    for x in targets:
        x.gt_scores = x.gt_scores if x.has("gt_scores") else torch.ones(len(x))
    return MaskedViews(images, student.backbone(images.tensor), targets, used or [True] * len(targets), background_prob)


def supervised(student, targets, seed=11):
    """Detectron2's own losses on the same images."""
    torch.manual_seed(seed)
    return student([{"image": random_image(seed=i), "instances": x} for i, x in enumerate(targets)])


def masked(student, targets, weights, seed=11, **kwargs):
    views = views_of(student, targets, **kwargs)
    torch.manual_seed(seed)
    return masked_consistency_losses(student, views, weights)[0]


ALL_TERMS = ConsistencyWeights(1.0, 1.0, 1.0, 1.0, quality="none")


RPN_WEIGHTS = {"MODEL__RPN__BBOX_REG_LOSS_WEIGHT": 0.3, "MODEL__RPN__LOSS_WEIGHT": 2.0}


@pytest.mark.parametrize("overrides", [{}, C4, RPN_WEIGHTS])
def test_true_boxes_and_no_weights_give_detectron2s_losses(overrides):
    student = student_of(**overrides)
    targets = [some_boxes(), some_boxes(classes=(1,)), some_boxes(classes=())]
    ours, theirs = masked(student, targets, ALL_TERMS), supervised(student, targets)
    assert ours.keys() == theirs.keys() == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


def test_terms_are_weighted_and_left_out():
    student = student_of()
    base = masked(student, [some_boxes()], ALL_TERMS)
    weighted = masked(student, [some_boxes()], ConsistencyWeights(2.0, 3.0, 0.5, 0.25, "none"))
    for name, factor in (("loss_rpn_cls", 2), ("loss_cls", 3), ("loss_rpn_loc", 0.5), ("loss_box_reg", 0.25)):
        torch.testing.assert_close(weighted[name], base[name] * factor)
    assert masked(student, [some_boxes()], ConsistencyWeights(quality="none")).keys() == {"loss_rpn_cls", "loss_cls"}
    assert masked(student, [some_boxes()], ConsistencyWeights(0, 1, quality="none")).keys() == {"loss_cls"}
    assert masked(student, [some_boxes()], ConsistencyWeights(1, 0, quality="none")).keys() == {"loss_rpn_cls"}


def test_images_add_up_and_a_skipped_one_adds_nothing():
    student = student_of()

    def losses(used):
        return masked(student, [some_boxes(), some_boxes(classes=(1,))], ALL_TERMS, used=used)

    both, first, second = losses([True, True]), losses([True, False]), losses([False, True])
    for name in ("loss_rpn_cls", "loss_rpn_loc", "loss_cls"):
        assert first[name] > 0 and second[name] > 0
        torch.testing.assert_close(both[name], first[name] + second[name])
    # the mean is over all images: an image alone has twice the loss
    alone = masked(student, [some_boxes()], ALL_TERMS)
    torch.testing.assert_close(first["loss_rpn_cls"], alone["loss_rpn_cls"] / 2)


def test_nothing_used_is_zero_with_gradients_of_zero():
    student = student_of()
    losses = masked(student, [some_boxes(classes=())], ConsistencyWeights(quality="none"), used=[False])
    assert all(v == 0 for v in losses.values())
    sum(losses.values()).backward()
    grads = [p.grad for p in student.roi_heads.box_predictor.cls_score.parameters()]
    assert all(g is not None and (g == 0).all() for g in grads)


def test_empty_image_as_background_is_detectron2s_loss_of_an_empty_image():
    student = student_of()
    targets = [some_boxes(classes=())]
    ours, theirs = masked(student, targets, ConsistencyWeights(quality="none")), supervised(student, targets)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


def test_constant_teacher_weights_scale_the_loss():
    student = student_of()
    targets = [some_boxes()]
    plain = masked(student, targets, ConsistencyWeights(quality="none"))
    targets[0].gt_scores = torch.full((2,), 0.25)
    quarter = masked(
        student, targets, ConsistencyWeights(quality="teacher"),
        background_prob=lambda boxes: [torch.full((len(b),), 0.25) for b in boxes],
    )  # fmt: skip
    for name in plain:
        torch.testing.assert_close(quarter[name], plain[name] / 4)


def hand_made_regions():
    """Two images: a matched and a background proposal; then one that is all background."""
    first = Instances((50, 50), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 5, 5], [9.0, 9, 20, 20]])),
                      gt_classes=torch.tensor([1, 3]), gt_scores=torch.tensor([0.9, 0.8]))  # fmt: skip
    second = Instances((50, 50), proposal_boxes=Boxes(torch.tensor([[1.0, 1, 6, 6]])), gt_classes=torch.tensor([3]))
    return [first, second]


def test_quality_of_classes_by_hand():
    logits = torch.tensor([[0.0, 0, 0, 0], [1.0, 0, 0, 2.0], [0.0, 0, 5.0, 0]])
    asked = []

    def background_prob(boxes):
        asked.extend(b.tolist() for b in boxes)
        return [torch.full((len(b),), 0.1 * (i + 1)) for i, b in enumerate(boxes)]

    views = MaskedViews(None, {}, [], [True, True], background_prob)

    def quality(mode):
        return consistency._class_quality(logits, hand_made_regions(), views, mode, 3)

    assert quality("none").tolist() == [1, 1, 1]
    # the pseudo-box's score for the matched region, the teacher's background probability for the others
    torch.testing.assert_close(quality("teacher"), torch.tensor([0.9, 0.1, 0.2]))
    assert asked == [x.proposal_boxes.tensor.tolist() for x in hand_made_regions()]
    e = torch.e
    expected = [0.25, e**2 / (e + 2 + e**2), e**5 / (e**5 + 3)]
    torch.testing.assert_close(quality("student"), torch.tensor(expected))


@pytest.mark.parametrize("num_sampled", [3, 4, 256])
def test_objectness_loss_by_hand(num_sampled):
    anchors = torch.tensor([[0.0, 0, 4, 4], [10.0, 10, 20, 20], [30.0, 30, 40, 40], [5.0, 5, 9, 9]])
    labels = torch.tensor([[1, 0, -1, 1], [0, -1, -1, 0]])  # positive, negative, not sampled
    logits = torch.tensor([[0.0, 2.0, 9.0, -1.0], [1.0, 9.0, 9.0, -3.0]])
    target = Instances((50, 50), gt_boxes=Boxes(torch.tensor([[0.0, 0, 4, 5], [5.0, 5, 9, 9]])),
                       gt_classes=torch.tensor([0, 1]), gt_scores=torch.tensor([0.6, 0.7]))  # fmt: skip
    none = torch.zeros(0)
    nothing = Instances((50, 50), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=none, gt_scores=none)
    matched = [target.gt_boxes.tensor[[0, 0, 0, 1]], torch.zeros(4, 4)]

    def background_prob(boxes):  # each anchor's own: 0.1 more than a hundredth of its left side
        return [0.1 + b[:, 0] / 100 for b in boxes]

    def loss(mode, used=(True, True)):
        views = MaskedViews(None, {}, [target, nothing], list(used), background_prob)
        own = torch.where(torch.tensor(used)[:, None], labels, -1)
        return consistency._objectness_loss(anchors, own, logits, matched, views, mode, num_sampled).item()

    p = torch.tensor([0.0, 2.0, -1.0, 1.0, -3.0]).sigmoid()  # of the sampled ones
    cross_entropies = -torch.where(torch.tensor([1.0, 0, 1, 0, 0]) == 1, p, 1 - p).log()
    for mode, q in {"teacher": torch.tensor([0.6, 0.2, 0.7, 0.1, 0.15]), "none": torch.ones(5),
                    "student": torch.maximum(p, 1 - p)}.items():  # fmt: skip
        assert loss(mode) == pytest.approx((q * cross_entropies).sum().item(), rel=1e-6), mode
        assert loss(mode, (False, True)) == pytest.approx((q * cross_entropies)[3:].sum().item(), rel=1e-6), mode
        assert loss(mode, (False, False)) == 0, mode


def test_gradient_of_the_class_loss_by_finite_differences():
    student = student_of()
    targets = [some_boxes()]
    bias = student.roi_heads.box_predictor.cls_score.bias

    def loss():
        return masked(student, targets, ConsistencyWeights(0, 1, quality="none"))["loss_cls"]

    loss().backward()
    for i in range(4):
        with torch.no_grad():
            values = []
            for step in (1e-2, -1e-2):
                bias[i] += step
                values.append(loss().item())
                bias[i] -= step
        assert bias.grad[i].item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-3, abs=2e-5)


def test_the_teacher_is_not_asked_about_images_that_are_left_out():
    asked = []

    def background_prob(boxes):
        asked.append([len(b) for b in boxes])
        return [b.new_full((len(b),), 0.5) for b in boxes]

    targets = [some_boxes(), some_boxes(classes=())]
    weights = ConsistencyWeights(quality="teacher")
    masked(student_of(), targets, weights, used=[True, False], background_prob=background_prob)
    assert len(asked) == 2  # for objectness and for classes
    assert all(first > 0 and second == 0 for first, second in asked)
