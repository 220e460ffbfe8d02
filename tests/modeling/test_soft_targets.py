"""Soft targets: against the hard losses, against sums over regions, and where student and teacher agree."""

import itertools
import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, pairwise_iou

from helpers.consistency import DIOU, GIOU, SMOOTH, masked, student_of, supervised, views_of
from helpers.models import ALL_BOXES, C4, NO_BOXES, some_boxes, source_input, target_input, tiny_cfg
from mic_det.config import validate_mic_config
from mic_det.errors import ConfigError
from mic_det.modeling.inputs import TeacherView
from mic_det.modeling.regions import rpn_predictions
from mic_det.modeling.tasks.region_consistency import ConsistencyWeights, masked_consistency_losses
from mic_det.modeling.tasks.region_teacher import RegionTeacher

ALL_TERMS = ConsistencyWeights(1.0, 1.0, 1.0, 1.0, targets="soft")
HARD_TERMS = ConsistencyWeights(1.0, 1.0, 1.0, 1.0, quality="none")
SOFT = {"MODEL__MIC__CONSISTENCY__TARGETS": "soft", "MODEL__MIC__CONSISTENCY__RPN_BOX_REG_WEIGHT": 1.0,
        "MODEL__MIC__CONSISTENCY__ROI_BOX_REG_WEIGHT": 1.0}  # fmt: skip
NO_CHANGE = {"MODEL__MIC__MASK__RATIO": 0.0, "MODEL__MIC__STRONG_AUG__JITTER_PROB": 0.0,
             "MODEL__MIC__STRONG_AUG__BLUR_PROB": 0.0}  # fmt: skip


class OneHotTeacher:
    """A teacher that is sure of everything, and right by the rules of Faster R-CNN for some boxes."""

    def __init__(self, student, targets):
        self.student, self.targets = student, targets

    def class_outputs(self, boxes):
        heads = self.student.roi_heads
        probs, deltas = [], []
        for b, target in zip(boxes, self.targets):
            p, d = torch.zeros(len(b), 4), torch.zeros(len(b), 4)
            for i in range(len(b)):
                ious = pairwise_iou(Boxes(b[i : i + 1]), target.gt_boxes)[0].tolist()
                best = max(range(len(ious)), key=lambda k: ious[k], default=None)
                if best is None or ious[best] < 0.5:
                    p[i, 3] = 1
                    continue
                p[i, target.gt_classes[best]] = 1
                d[i] = heads.box_predictor.box2box_transform.get_deltas(
                    b[i : i + 1], target.gt_boxes.tensor[best][None]
                )
            probs.append(p)
            own = heads.box_predictor.bbox_pred.out_features // 4
            deltas.append(d.repeat(1, own))
        return probs, deltas

    def anchor_outputs(self, shapes):
        rpn = self.student.proposal_generator
        anchors = Boxes.cat(rpn.anchor_generator([torch.zeros(1, 1, *shape) for shape in shapes]))
        logits, deltas = [], []
        for target in self.targets:
            z, d = torch.full((len(anchors),), -1e4), torch.zeros(len(anchors), 4)
            if len(target):
                iou = pairwise_iou(target.gt_boxes, anchors)
                best, matched = iou.max(dim=0)
                z[(best >= 0.7) | (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)] = 1e4
                d = rpn.box2box_transform.get_deltas(anchors.tensor, target.gt_boxes.tensor[matched])
            logits.append(z)
            deltas.append(d)
        return torch.stack(logits), torch.stack(deltas)


@pytest.mark.parametrize("overrides", [{}, C4, GIOU, DIOU, SMOOTH])
def test_a_one_hot_teacher_gives_the_hard_losses_with_weight_1(overrides):
    student = student_of(**overrides)
    targets = [some_boxes(), some_boxes(classes=(1,)), some_boxes(classes=())]
    hard = masked(student, targets, HARD_TERMS)
    soft = masked(student, targets, ALL_TERMS, soft_teacher=OneHotTeacher(student, targets))
    assert soft.keys() == hard.keys() == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    for name, value in hard.items():
        assert value > 0
        torch.testing.assert_close(soft[name], value, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def with_opinions(model):
    """A model whose outputs differ from region to region, unlike those of new predictors."""
    heads = model.proposal_generator.rpn_head, model.roi_heads.box_predictor
    for layer in (heads[0].objectness_logits, heads[0].anchor_deltas, heads[1].cls_score, heads[1].bbox_pred):
        layer.weight.mul_(20)
    return model


def other_teacher(student, overrides, num_images, scales=(1.0, 1.0)):
    """A real teacher of other weights, and what it has seen of the images of ``views_of``."""
    teacher = with_opinions(student_of(**overrides)).eval()
    with torch.no_grad():
        images = views_of(student, [some_boxes()] * num_images).images
        features = teacher.backbone(images.tensor)
        view = TeacherView([], images, features, images.image_sizes, [scales] * num_images)
        return teacher, RegionTeacher(teacher, view, rpn_predictions(teacher.proposal_generator, features)), features


def spied(monkeypatch, part, name):
    """What a method of a student's part returns, noted."""
    seen, method = [], getattr(part, name)
    monkeypatch.setattr(part, name, lambda *args: seen.append(method(*args)) or seen[-1])
    return seen


@pytest.mark.parametrize("overrides", [{}, DIOU | {"MODEL__RPN__BBOX_REG_LOSS_TYPE": "smooth_l1"}])
def test_all_four_terms_by_sums_over_regions_one_by_one(monkeypatch, overrides):
    torch.manual_seed(5)
    student = with_opinions(student_of(**overrides))
    targets = [some_boxes(), some_boxes(classes=(1,))]
    teacher, soft_teacher, seen_features = other_teacher(student, overrides, 2)
    drawn_anchors = spied(monkeypatch, student.proposal_generator, "label_and_sample_anchors")
    drawn_boxes = spied(monkeypatch, student.roi_heads, "label_and_sample_proposals")
    found = masked(student, targets, ALL_TERMS, soft_teacher=soft_teacher)
    features = views_of(student, targets).features
    # objectness and deltas of anchors, from each model's own RPN
    (labels, _), = drawn_anchors  # fmt: skip
    outputs = []
    for model, maps in ((student, features), (teacher, seen_features)):
        _, logits, deltas = rpn_predictions(model.proposal_generator, maps)
        outputs.append((torch.cat(logits, 1).tolist(), torch.cat(deltas, 1).tolist()))
    rpn_cls = rpn_loc = 0.0
    for n, i in itertools.product(range(2), range(len(labels[0]))):
        if labels[n][i] >= 0:
            s, t = (1 / (1 + math.exp(-logits[n][i])) for logits, _ in outputs)
            rpn_cls -= t * math.log(s) + (1 - t) * math.log(1 - s)
            rpn_loc += t * sum(abs(a - b) for a, b in zip(outputs[0][1][n][i], outputs[1][1][n][i]))
    assert found["loss_rpn_cls"].item() == pytest.approx(rpn_cls / 64, rel=1e-4)  # 32 anchors an image
    assert found["loss_rpn_loc"].item() == pytest.approx(rpn_loc / 64, rel=1e-4)
    # classes and deltas of regions, from each model's own box head, one region at a time
    (sampled,) = drawn_boxes
    cls = loc = 0.0
    total = sum(map(len, sampled))
    for n, x in enumerate(sampled):
        for i in range(len(x)):
            both = []
            for model, maps in ((student, features), (teacher, seen_features)):
                heads = model.roi_heads
                pooled = heads.box_pooler(
                    [maps[f][n : n + 1] for f in heads.box_in_features], [x.proposal_boxes[i : i + 1]]
                )
                logits, deltas = heads.box_predictor(heads.box_head(pooled))
                both.append((logits[0].softmax(0), deltas[0].view(-1, 4), heads.box_predictor))
            (p_s, d_s, settings), (p_t, d_t, _) = both
            cls -= (p_t * p_s.log()).sum().item()
            if len(d_s) > 1:
                loc += sum(p_t[k].item() * (d_s[k] - d_t[k]).abs().sum().item() for k in range(3))
            else:
                loc += (1 - p_t[3].item()) * complete_iou_loss(settings, x.proposal_boxes.tensor[i], d_s[0], d_t[0])
    assert found["loss_cls"].item() == pytest.approx(cls / total, rel=1e-4)
    assert found["loss_box_reg"].item() == pytest.approx(loc / total, rel=1e-4)


def complete_iou_loss(settings, box, ours, theirs):
    """CIoU of Zheng et al. (AAAI 2020), from its formula."""
    a, b = (settings.box2box_transform.apply_deltas(d[None], box[None])[0].tolist() for d in (ours, theirs))
    (wa, ha), (wb, hb) = ((x[2] - x[0], x[3] - x[1]) for x in (a, b))
    common = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    iou = common / (wa * ha + wb * hb - common)
    apart = sum(((a[i] + a[i + 2]) - (b[i] + b[i + 2])) ** 2 / 4 for i in (0, 1))
    diagonal = sum((max(a[i + 2], b[i + 2]) - min(a[i], b[i])) ** 2 for i in (0, 1))
    v = 4 / math.pi**2 * (math.atan(wb / hb) - math.atan(wa / ha)) ** 2
    return 1 - iou + apart / diagonal + v * v / (1 - iou + v + 1e-7)


def masked_gradient(settings, batch):
    """L_M's terms of a MIC whose teacher is still its student, and the largest gradient of each."""
    torch.manual_seed(1)
    model = build_model(tiny_cfg(**settings)).train()
    losses = {k: v for k, v in model(batch).items() if k.startswith("masked/")}
    parameters = [p for p in model.student.parameters() if p.requires_grad]
    largest = {}
    for name, value in losses.items():
        grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        largest[name] = max(g.abs().max().item() for g in grads if g is not None)
    return losses, largest


@pytest.mark.parametrize("boxes", [ALL_BOXES, {**NO_BOXES, "MODEL__MIC__CONSISTENCY__EMPTY_IMAGES": "background"}])
def test_the_gradient_is_zero_where_student_and_teacher_agree(boxes):
    """Nothing is hidden, so the student sees what the teacher sees: all four terms are at their minimum."""
    batch = [source_input(), target_input(), target_input(5)]
    settings = {**SOFT, **NO_CHANGE, **SMOOTH, **boxes}
    _, hard = masked_gradient({**settings, "MODEL__MIC__CONSISTENCY__TARGETS": "hard"}, batch)
    losses, soft = masked_gradient(settings, batch)
    assert losses["masked/loss_cls"] > 0 and losses["masked/loss_rpn_cls"] > 0, "the teacher's entropy"
    assert soft.keys() == hard.keys() and len(soft) == 4
    for name in ("masked/loss_cls", "masked/loss_rpn_cls"):
        assert soft[name] < 1e-5 * hard[name]
    assert max(soft.values()) < 1e-5 * max(hard.values())
    _, hidden = masked_gradient({**settings, "MODEL__MIC__MASK__RATIO": 0.5}, batch)
    assert hidden["masked/loss_cls"] > 1e-3 * hard["masked/loss_cls"], "where it sees less, it has to learn"


def test_images_without_pseudo_boxes_are_skipped_or_compared_with_what_the_teacher_sees():
    skipped = build_model(tiny_cfg(**SOFT, **NO_BOXES)).train()([source_input(), target_input()])
    assert all(v == 0 for k, v in skipped.items() if k.startswith("masked/"))
    assert sum(k.startswith("masked/") for k in skipped) == 4


def test_nothing_flows_to_the_teacher_and_its_backbone_and_rpn_run_once():
    model = build_model(tiny_cfg(**SOFT, **ALL_BOXES)).train()
    model.teacher.requires_grad_(True)
    ran = []
    for name in ("backbone", "proposal_generator.rpn_head"):
        model.teacher.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    losses = model([source_input(), target_input(), target_input(5)])
    assert sorted(ran) == ["backbone", "proposal_generator.rpn_head"]
    sum(losses.values()).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    for name, p in model.student.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name


def test_the_pseudo_boxes_are_those_of_hard_targets():
    """The RPN's outputs are handed on to the box head, which then finds what it finds on its own."""
    found = []
    for targets in ({}, SOFT):
        torch.manual_seed(0)
        model = build_model(tiny_cfg(**ALL_BOXES, **targets)).eval()
        found.append(model.teach([target_input(), target_input(5, (48, 80))])["boxes"].boxes)
    for hard, soft in zip(*found):
        assert len(hard) > 0
        assert torch.equal(hard.gt_boxes.tensor, soft.gt_boxes.tensor) and torch.equal(hard.scores, soft.scores)


@pytest.mark.parametrize("size", [(64, 96), (128, 96), (96, 160), (32, 64), (32, 128)])
def test_anchors_of_larger_and_smaller_maps_are_the_same_places_of_the_image(size):
    student = student_of()
    teacher, soft_teacher, features = other_teacher(student, {}, 2)
    rpn = teacher.proposal_generator
    anchors, logits, deltas = rpn_predictions(rpn, features)
    known = {}
    for level, (boxes, z, d) in enumerate(zip(anchors, logits, deltas)):
        for i, box in enumerate(boxes.tensor.tolist()):
            known[level, tuple(box)] = z[:, i].tolist(), d[:, i].tolist()
    strides = [64 // features[name].shape[-2] for name in rpn.in_features]
    shapes = [(math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in strides]
    others = rpn.anchor_generator([torch.zeros(1, 1, *shape) for shape in shapes])
    z, d = soft_teacher.anchor_outputs(shapes)
    z, d = z.split([len(x) for x in others], dim=1), d.split([len(x) for x in others], dim=1)
    unknown = 0
    for level, boxes in enumerate(others):
        for i, box in enumerate(boxes.tensor.tolist()):
            if (level, tuple(box)) in known:
                expected_z, expected_d = known[level, tuple(box)]
                assert z[level][:, i].tolist() == expected_z and d[level][:, i].tolist() == expected_d
            else:
                unknown += 1
                assert (z[level][:, i] == -math.inf).all() and (d[level][:, i] == 0).all()
    assert (unknown > 0) == (size[0] > 64 or size[1] > 96)


def test_anchors_that_the_teacher_does_not_have_are_left_out():
    student = student_of()
    targets = [some_boxes()]

    class Blind(OneHotTeacher):
        def anchor_outputs(self, shapes):
            logits, deltas = super().anchor_outputs(shapes)
            return torch.full_like(logits, -math.inf), deltas

    losses = masked(student, targets, ALL_TERMS, soft_teacher=Blind(student, targets))
    assert losses["loss_rpn_cls"] == 0 and losses["loss_rpn_loc"] == 0 and losses["loss_cls"] > 0
    (gradient,) = torch.autograd.grad(
        losses["loss_rpn_cls"] + losses["loss_rpn_loc"], [student.proposal_generator.rpn_head.objectness_logits.bias]
    )
    assert (gradient == 0).all()


@pytest.mark.parametrize("true_labels", [[False, True], [True, False]])
def test_true_labels_stay_hard_and_both_kinds_add_up(true_labels):
    student = student_of()
    _, soft_teacher, _ = other_teacher(student, {}, 1)

    def losses(used):
        targets = [some_boxes(), some_boxes(classes=(1,))]
        return masked(student, targets, ALL_TERMS, used=used, true_labels=true_labels, soft_teacher=soft_teacher)

    both = losses([True, True])
    true, pseudo = losses(true_labels), losses([not x for x in true_labels])
    hard = masked(student, [some_boxes(), some_boxes(classes=(1,))], HARD_TERMS, used=true_labels)
    for name, value in both.items():
        assert pseudo[name] > 0 and true[name] > 0
        torch.testing.assert_close(value, pseudo[name] + true[name])
        torch.testing.assert_close(true[name], hard[name])
    with_truth = masked(student, [some_boxes()], ALL_TERMS, true_labels=[True])
    for name, value in supervised(student, [some_boxes()]).items():
        torch.testing.assert_close(with_truth[name], value, rtol=1e-5, atol=1e-5)


def test_the_teacher_is_not_asked_about_images_that_are_left_out():
    student = student_of()
    targets = [some_boxes(), some_boxes(classes=())]
    asked = []

    class Noting(OneHotTeacher):
        def class_outputs(self, boxes):
            asked.append([len(b) for b in boxes])
            return super().class_outputs(boxes)

    views = views_of(student, targets, used=[True, False], soft_teacher=Noting(student, targets))
    losses = masked_consistency_losses(student, views, ALL_TERMS)
    assert len(asked) == 1 and asked[0][0] > 0 and asked[0][1] == 0
    assert all(v > 0 for v in losses.values())


@pytest.mark.parametrize("domains", ["target", "source", "both"])
@pytest.mark.parametrize("overrides", [{}, C4])
def test_images_of_all_sizes_go_through(domains, overrides):
    model = build_model(tiny_cfg(**SOFT, **ALL_BOXES, **overrides, MODEL__MIC__MASK__DOMAINS=domains)).train()
    for batch in ([source_input(0, (40, 50)), target_input(1, (90, 33)), target_input(2, (32, 100))],
                  [source_input(classes=()), target_input()], [source_input()]):  # fmt: skip
        losses = model(batch)
        assert all(torch.isfinite(v) for v in losses.values())
        sum(losses.values()).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.isfinite(v) for v in model([source_input(0, (40, 50)), target_input(1, (90, 33))]).values())


def test_a_teacher_that_sees_another_size_is_refused_for_anchors_and_works_for_regions():
    other = {**SOFT, "MODEL__MIC__TEACHER__INPUT_SIZE": 128}
    with pytest.raises(ConfigError, match="TEACHER.INPUT_SIZE is 128.*same anchors.*set it to 0"):
        validate_mic_config(tiny_cfg(**other))
    regions = {"MODEL__MIC__CONSISTENCY__RPN_CLS_WEIGHT": 0.0, "MODEL__MIC__CONSISTENCY__RPN_BOX_REG_WEIGHT": 0.0}
    model = build_model(tiny_cfg(**{**other, **regions, **ALL_BOXES})).train()
    losses = model([source_input(), target_input()])
    assert losses["masked/loss_cls"] > 0 and losses["masked/loss_box_reg"] > 0
    # a model that is put together in Python, without a config to check
    model = build_model(tiny_cfg(**SOFT, **ALL_BOXES)).train()
    model.teacher_input_size = 128
    with pytest.raises(ConfigError, match="TARGETS 'soft'.*TEACHER.INPUT_SIZE 0"):
        model([source_input(), target_input()])


def test_undecided_boxes_are_refused():
    with pytest.raises(ConfigError, match="IGNORE_SCORE is 0.3.*TARGETS 'soft'.*Set it to 0"):
        validate_mic_config(tiny_cfg(**SOFT, MODEL__MIC__PSEUDO_BOXES__IGNORE_SCORE=0.3))


@pytest.mark.parametrize("quality", ["student", "published"])
def test_quality_weights_of_the_student_are_refused(quality):
    with pytest.raises(ConfigError, match=f"QUALITY is '{quality}'.*TARGETS.*'teacher' or 'none'"):
        validate_mic_config(tiny_cfg(**SOFT, MODEL__MIC__CONSISTENCY__QUALITY=quality))
