"""L_M against Detectron2's own supervised losses, and the quality weights against hand-made values."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from helpers.consistency import DIOU, GIOU, SMOOTH, masked, student_of, supervised
from helpers.models import C4, some_boxes
from mic_det.config import QUALITY_MODES
from mic_det.modeling.tasks import region_consistency as consistency
from mic_det.modeling.tasks import region_sampling as sampling
from mic_det.modeling.tasks.region_consistency import ConsistencyWeights
from mic_det.modeling.tasks.region_sampling import MaskedViews

ALL_TERMS = ConsistencyWeights(1.0, 1.0, 1.0, 1.0, quality="none")


RPN_WEIGHTS = {"MODEL__RPN__BBOX_REG_LOSS_WEIGHT": 0.3, "MODEL__RPN__LOSS_WEIGHT": 2.0}


@pytest.mark.parametrize("overrides", [{}, C4, RPN_WEIGHTS, GIOU, DIOU, SMOOTH])
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
    for name in ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"):
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


def test_constant_teacher_weights_scale_all_terms():
    student = student_of()
    targets = [some_boxes()]
    plain = masked(student, targets, ALL_TERMS)
    targets[0].gt_scores = torch.full((2,), 0.25)
    quarter = masked(
        student, targets, ConsistencyWeights(1.0, 1.0, 1.0, 1.0, quality="teacher"),
        background_prob=lambda boxes: [torch.full((len(b),), 0.25) for b in boxes],
    )  # fmt: skip
    assert len(plain) == 4
    for name in plain:
        torch.testing.assert_close(quarter[name], plain[name] / 4)


def box_terms(student, scores):
    """Both box regression terms of two images with a pseudo-box each."""
    targets = [some_boxes(classes=(0,)), some_boxes(classes=(1,))]
    for x, score in zip(targets, scores):
        x.gt_scores = torch.full((1,), score)
    weights = ConsistencyWeights(0.0, 0.0, 1.0, 1.0, quality="teacher")
    losses = masked(student, targets, weights, background_prob=lambda boxes: [b.new_zeros(len(b)) for b in boxes])
    assert losses.keys() == {"loss_rpn_loc", "loss_box_reg"}
    return losses


def test_box_regression_is_weighted_by_each_boxes_score():
    student = student_of()
    first, second = box_terms(student, (1.0, 0.0)), box_terms(student, (0.0, 1.0))
    mixed = box_terms(student, (0.9, 0.3))
    for name, loss in mixed.items():
        assert first[name] > 0 and second[name] > 0
        torch.testing.assert_close(loss, 0.9 * first[name] + 0.3 * second[name])


@pytest.mark.parametrize("quality", QUALITY_MODES)
def test_regions_with_true_labels_have_weight_1_in_every_mode(quality):
    """A masked source image: Detectron2's own losses, and no teacher to ask."""
    student = student_of()
    targets = [some_boxes(), some_boxes(classes=())]
    weights = ConsistencyWeights(1.0, 1.0, 1.0, 1.0, quality=quality)
    ours, theirs = masked(student, targets, weights, true_labels=[True, True]), supervised(student, targets)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quality", QUALITY_MODES)
def test_true_and_pseudo_labels_in_one_batch_add_up(quality):
    student = student_of()
    weights = ConsistencyWeights(1.0, 1.0, 1.0, 1.0, quality=quality)
    asked = []

    def losses(used, **kwargs):
        targets = [some_boxes(), some_boxes(classes=(1,))]
        targets[0].gt_scores = torch.full((2,), 0.5)

        def background_prob(boxes):
            asked.append(len(boxes))
            return [torch.full((len(b),), 0.1) for b in boxes]

        return masked(student, targets, weights, used=used, background_prob=background_prob, **kwargs)

    both = losses([True, True], true_labels=[False, True])
    assert asked == ([1, 1] if quality == "teacher" else [])  # about the first image alone
    pseudo, true = losses([True, False]), losses([False, True], true_labels=[True, True])
    for name in both:
        assert pseudo[name] > 0 and true[name] > 0
        torch.testing.assert_close(both[name], pseudo[name] + true[name])


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
    for mode in ("student", "published"):  # the published one differs in objectness alone
        torch.testing.assert_close(quality(mode), torch.tensor(expected))
    leaf = logits.clone().requires_grad_()
    assert not consistency._class_quality(leaf, hand_made_regions(), views, "published", 3).requires_grad


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
        sampled = sampling.chosen_anchors(anchors, matched, own, logits, torch.zeros(2, 4, 4), num_sampled)
        q = consistency._objectness_quality(sampled, views, mode)
        return consistency._objectness_loss(sampled, (sampled.labels == 1).float(), q).item()

    p = torch.tensor([0.0, 2.0, -1.0, 1.0, -3.0]).sigmoid()  # of the sampled ones
    cross_entropies = -torch.where(torch.tensor([1.0, 0, 1, 0, 0]) == 1, p, 1 - p).log()
    for mode, q in {"teacher": torch.tensor([0.6, 0.2, 0.7, 0.1, 0.15]), "none": torch.ones(5),
                    "student": torch.maximum(p, 1 - p), "published": p}.items():  # fmt: skip
        assert loss(mode) == pytest.approx((q * cross_entropies).sum().item(), rel=1e-6), mode
        assert loss(mode, (False, True)) == pytest.approx((q * cross_entropies)[3:].sum().item(), rel=1e-6), mode
        assert loss(mode, (False, False)) == 0, mode


def anchors_of_a_trained_rpn(num=256):
    """Logits and labels as a trained RPN has them on a masked image: sure of the background, and blind to most objects.

    One anchor in ten is an object, and most of those are hidden: their foreground probability is a few percent.
    """
    labels = torch.arange(num) % 10 == 0
    spread = torch.linspace(-1.5, 1.5, num)[torch.randperm(num, generator=torch.Generator().manual_seed(0))]
    return torch.where(labels, -3.2 + spread, -4.6 + spread), labels.long()


def objectness_term(mode, logits, labels):
    """Mean over the anchors of what the loss is made of, with its gradient by the logits."""
    logits = logits.clone().requires_grad_()
    sampled = sampling.SampledAnchors([torch.zeros(len(logits), 4)], [], labels[None], logits[None], None)
    views = MaskedViews(None, {}, [], [True])
    q = consistency._objectness_quality(sampled, views, mode)
    loss = consistency._objectness_loss(sampled, labels[None].float(), q) / len(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.item(), gradient


def test_published_objectness_is_a_fraction_of_students_on_a_trained_rpns_anchors():
    """Values and gradients from the formulas: q = p with a gradient, against q = max(p, 1 - p) without."""
    logits, labels = anchors_of_a_trained_rpn()
    published, student = 0.0, 0.0
    gradients = {"published": [], "student": []}
    for x, y in zip(logits.tolist(), labels.tolist()):
        p = 1 / (1 + math.exp(-x))
        loss = -math.log(p if y else 1 - p)
        published += p * loss / len(labels)
        student += max(p, 1 - p) * loss / len(labels)
        gradients["published"].append((p * (p - y) + p * (1 - p) * loss) / len(labels))  # product rule
        gradients["student"].append(max(p, 1 - p) * (p - y) / len(labels))
    assert 0.01 < published < 0.02 and 0.3 < student < 0.4, "a factor of about 20"
    for mode, value in (("published", published), ("student", student)):
        found, gradient = objectness_term(mode, logits, labels)
        assert found == pytest.approx(value, rel=1e-5)
        torch.testing.assert_close(gradient, torch.tensor(gradients[mode]), rtol=1e-4, atol=1e-8)


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
