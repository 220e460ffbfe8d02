"""Keypoints in L_M: weights and loss by hand, Detectron2's own loss with true keypoints, frames, and whole steps."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads.keypoint_head import keypoint_rcnn_loss
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage

from helpers.consistency import masked, student_of, supervised
from helpers.models import ALL_BOXES, C4, NO_BOXES, random_image, some_boxes, source_input, target_input, tiny_cfg
from mic_det.config import validate_mic_config
from mic_det.errors import ConfigError
from mic_det.modeling.pseudo_labels import weighted_keypoints
from mic_det.modeling.tasks.keypoint_consistency import keypoint_loss
from mic_det.modeling.tasks.rcnn import RCNNTask
from mic_det.modeling.tasks.region_consistency import ConsistencyWeights
from mic_det.modeling.tasks.region_sampling import pseudo_targets, true_targets

pytestmark = pytest.mark.slow
HEAD = {"MODEL__KEYPOINT_ON": True, "MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 3,
        "MODEL__ROI_KEYPOINT_HEAD__CONV_DIMS": [8], "MODEL__ROI_KEYPOINT_HEAD__POOLER_RESOLUTION": 3,
        "TEST__KEYPOINT_OKS_SIGMAS": [0.1] * 3}  # fmt: skip
BY_NUMBER = {"MODEL__ROI_KEYPOINT_HEAD__NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": False}
WEIGHT = "MODEL__MIC__CONSISTENCY__KEYPOINT_WEIGHT"
EVERY_KEYPOINT = {"MODEL__MIC__PSEUDO_KEYPOINTS__SCORE_THRESHOLD": 0.0}
TERMS = ConsistencyWeights(1.0, 1.0, 0.0, 0.0, quality="none", keypoint=1.0)
SIDE = 12  # cells of the heat map: 3 cells of the pooler, four times as fine


def with_keypoints(size=(64, 96), classes=(0, 2)):
    """True keypoints: the first object has a covered one and one that is not there; of the second, all are seen."""
    targets = some_boxes(size, classes)
    x0, y0, x1, y1 = (v[:, None] for v in targets.gt_boxes.tensor.unbind(1))
    shares = torch.tensor([0.2, 0.5, 0.8])
    rows = torch.stack([x0 + shares * (x1 - x0), y0 + shares * (y1 - y0), torch.full((len(classes), 3), 2.0)], dim=2)
    rows[0, 1, 2] = 1
    rows[0, 2] = 0
    targets.gt_keypoints = Keypoints(rows)
    return targets


def test_weights_by_hand():
    keypoints = torch.tensor(
        [[[1.0, 2, 0.04], [3, 4, 0.05], [5, 6, 0.7]], [[7, 8, 1.3], [9, 10, 0.9], [11, 12, 0.0]], [[1, 1, 0.9]] * 3]
    )
    classes = torch.tensor([0, 2, 1])
    found = weighted_keypoints(keypoints, classes, 0.05, with_keypoints=[0, 2])
    assert found[:, :, 2].tolist() == [pytest.approx([0, 0.05, 0.7]), pytest.approx([1, 0.9, 0]), [0, 0, 0]]
    assert torch.equal(found[:, :, :2], keypoints[:, :, :2])
    assert weighted_keypoints(keypoints, classes, 0.05)[2, :, 2].tolist() == pytest.approx([0.9] * 3)
    plain = weighted_keypoints(keypoints, classes, 0.05, [0, 2], quality=False)[:, :, 2]
    assert plain.tolist() == [[0, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert weighted_keypoints(keypoints[:0], classes[:0], 0.05, [0]).shape == (0, 3, 3)
    assert not weighted_keypoints(keypoints, classes, 0.05, []).select(2, 2).any()


@pytest.mark.parametrize("keys", [{}, BY_NUMBER])
def test_with_true_keypoints_the_loss_is_detectron2s(keys):
    student = student_of(**HEAD, **keys)
    truth = [with_keypoints(), with_keypoints(classes=(1,))]
    with EventStorage():
        expected = supervised(student, truth)
        found = masked(student, true_targets(truth, keypoints=True), TERMS, true_labels=[True, True])
    assert expected["loss_keypoint"] > 0.05
    torch.testing.assert_close(found["loss_keypoint"], expected["loss_keypoint"])
    torch.testing.assert_close(found["loss_cls"], expected["loss_cls"])


def sampled_regions():
    """Regions of three images: foreground with weighted keypoints, some of them outside, background, and none."""
    torch.manual_seed(2)
    sampled = []
    for boxes in (
        [[4.0, 6.0, 40.0, 50.0], [20.0, 2.0, 45.0, 55.0], [0.0, 0.0, 9.0, 9.0]],
        [],
        [[5.0, 5.0, 60.0, 40.0]],
    ):
        x = Instances((64, 96), proposal_boxes=Boxes(torch.tensor(boxes).view(-1, 4)))
        x.gt_classes = torch.tensor([2, 0, 3][: len(boxes)], dtype=torch.int64)  # 3 = background
        rows = torch.tensor([[10.0, 30.0, 0.9], [30.0, 20.0, 0.25], [35.0, 45.0, 0.0]])
        x.gt_keypoints = Keypoints(rows.repeat(len(boxes), 1, 1))
        sampled.append(x)
    sampled[1].remove("gt_keypoints")
    return sampled


def features_of(student):
    images = student.preprocess_image([{"image": random_image(seed=i)} for i in range(3)])
    return student.backbone(images.tensor)


@pytest.mark.parametrize("keys, normalizer", [({}, 5), (BY_NUMBER, 3 * 3 * 16 * 0.25)])
def test_the_loss_of_pseudo_keypoints_by_hand(keys, normalizer):
    student = student_of(**HEAD, **keys)
    heads, features, sampled = student.roi_heads, features_of(student), sampled_regions()
    total, counted = 0.0, 0
    for image, region in ((0, 0), (0, 1), (2, 0)):
        x = sampled[image][region : region + 1]
        own = {k: v[image : image + 1] for k, v in features.items()}
        pooled = heads.keypoint_pooler([own[f] for f in heads.keypoint_in_features], [x.proposal_boxes])
        logits = heads.keypoint_head.layers(pooled)[0]
        assert logits.shape == (3, SIDE, SIDE)
        x0, y0, x1, y1 = x.proposal_boxes.tensor[0].tolist()
        for heat, (px, py, weight) in zip(logits, x.gt_keypoints.tensor[0].tolist()):
            column, row = math.floor((px - x0) / (x1 - x0) * SIDE), math.floor((py - y0) / (y1 - y0) * SIDE)
            if weight and 0 <= column < SIDE and 0 <= row < SIDE:
                p = heat.exp() / heat.exp().sum()
                total = total - weight * p[row, column].log()
                counted += 1
    assert counted == 5  # the first keypoint is outside of the second region
    found = keypoint_loss(heads, features, sampled)
    torch.testing.assert_close(found, total / normalizer)


@pytest.mark.parametrize("keys", [{}, BY_NUMBER])
def test_with_weights_of_one_the_loss_is_detectron2s_own_function(keys):
    student = student_of(**HEAD, **keys)
    heads, features, sampled = student.roi_heads, features_of(student), sampled_regions()
    for x in sampled:
        if x.has("gt_keypoints"):
            rows = x.gt_keypoints.tensor
            x.gt_keypoints = Keypoints(torch.cat([rows[:, :, :2], torch.ones_like(rows[:, :, 2:])], dim=2))
    found = keypoint_loss(heads, features, sampled)
    foreground = [x[x.gt_classes < 3] for x in sampled]
    pooled = heads.keypoint_pooler(
        [features[f] for f in heads.keypoint_in_features], [x.proposal_boxes for x in foreground]
    )
    normalizer = None if not keys else 3 * heads.keypoint_head.loss_normalizer
    torch.testing.assert_close(found, keypoint_rcnn_loss(heads.keypoint_head.layers(pooled), foreground, normalizer))


def test_without_a_keypoint_the_loss_is_zero_and_all_parameters_have_a_gradient():
    student = student_of(**HEAD)
    features = features_of(student)
    no_weight, no_region, outside = sampled_regions(), [x[:0] for x in sampled_regions()], sampled_regions()
    for x in (no_weight[0], no_weight[2]):
        x.gt_keypoints.tensor[:, :, 2] = 0
    for x in (outside[0], outside[2]):
        x.gt_keypoints.tensor[:, :, 0] += 80
    for sampled in (no_weight, no_region, outside):
        student.zero_grad()
        loss = keypoint_loss(student.roi_heads, features, sampled)
        loss.backward(retain_graph=True)
        assert loss == 0
        assert all(p.grad is not None and not p.grad.any() for p in student.roi_heads.keypoint_head.parameters())


def mic(**keys):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**{**HEAD, **ALL_BOXES, **EVERY_KEYPOINT, WEIGHT: 1.0, **keys})).train()


def step(model, seed=3):
    source = source_input()
    source["instances"] = with_keypoints()
    torch.manual_seed(seed)
    with EventStorage() as storage:
        losses = model([source, target_input()])
        model.logged = {k: v for k, (v, _) in storage.latest().items()}
    return losses


@pytest.mark.parametrize("keys", [
    {}, {"MODEL__MIC__CONSISTENCY__TARGETS": "soft"}, {"MODEL__MIC__TEACHER__INPUT_SIZE": 96},
    {"MODEL__MIC__MASK__DOMAINS": "both"}, {"MODEL__MIC__PSEUDO_BOXES__IGNORE_SCORE": 0.01},
    {"MODEL__MIC__ALIGNMENT__INSTANCE__ENABLED": True}, {"MODEL__MIC__CONSISTENCY__QUALITY": "none"},
])  # fmt: skip
def test_a_step_trains_the_keypoint_head_by_its_weight(keys):
    without, model = step(mic(**{**keys, WEIGHT: 0.0})), mic(**keys)
    losses = step(model)
    assert "masked/loss_keypoint" not in without and losses["masked/loss_keypoint"] > 1e-3
    for name, value in without.items():  # nothing else of the step changes
        torch.testing.assert_close(value, losses[name])
    losses["masked/loss_keypoint"].backward()
    assert model.student.roi_heads.keypoint_head.score_lowres.weight.grad.abs().sum() > 0
    assert model.student.backbone.bottom_up.res5[0].conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.teacher.parameters())
    logged = model.logged
    assert logged["pseudo/num_keypoints"] == 3 * logged["pseudo/num_boxes"] > 0
    if keys.get("MODEL__MIC__CONSISTENCY__QUALITY"):
        assert logged["pseudo/mean_keypoint_weight"] == 1
    else:  # an untrained heat map is rather flat
        assert 1 / SIDE**2 < logged["pseudo/mean_keypoint_weight"] < 0.2


def test_the_weight_multiplies_the_loss():
    half, whole = (step(mic(**{WEIGHT: w}))["masked/loss_keypoint"] for w in (0.5, 1.0))
    torch.testing.assert_close(half, whole * 0.5)


@pytest.mark.parametrize("keys", [NO_BOXES, {"MODEL__MIC__PSEUDO_KEYPOINTS__SCORE_THRESHOLD": 1.0}])
def test_a_step_without_a_pseudo_keypoint_has_a_loss_of_zero(keys):
    model = mic(**keys)
    losses = step(model)
    assert losses["masked/loss_keypoint"] == 0 and losses["masked/loss_keypoint"].requires_grad
    assert model.logged["pseudo/num_keypoints"] == 0 and "pseudo/mean_keypoint_weight" not in model.logged
    losses["masked/loss_keypoint"].backward()
    assert all(p.grad is not None for p in model.student.roi_heads.keypoint_head.parameters())


@pytest.mark.parametrize("size", [0, 128])
def test_pseudo_keypoints_are_those_of_the_teachers_own_inference_in_the_frame_of_the_student(size):
    """Detectron2's inference on the image at the teacher's size; its coordinates are scaled back."""
    model = mic(MODEL__MIC__TEACHER__INPUT_SIZE=size)
    model.teacher.eval()
    pseudo = model.pseudo_labels([target_input()])["boxes"].boxes[0]
    image, scale = target_input()["image"], 2 if size else 1
    if size:
        image = F.interpolate(image[None].float(), size=(128, 192), mode="bilinear", antialias=True)[0]
    with torch.no_grad():
        found = model.teacher.inference([{"image": image}], do_postprocess=False)[0]
    for box, rows in zip(pseudo.gt_boxes.tensor, pseudo.keypoints):
        i = (found.pred_boxes.tensor / scale - box).abs().amax(dim=1).argmin()
        torch.testing.assert_close(found.pred_boxes.tensor[i] / scale, box)
        torch.testing.assert_close(found.pred_keypoints[i, :, :2] / scale, rows[:, :2])
        torch.testing.assert_close(found.pred_keypoints[i, :, 2].clamp(max=1), rows[:, 2])
        assert (rows[:, 0] >= box[0]).all() and (rows[:, 0] <= box[2] + 1).all()
    assert len(pseudo) > 3


def test_in_bfloat16_keypoints_keep_the_precision_of_float32():
    model = mic()
    model.teacher.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pseudo = model.pseudo_labels([target_input(size=(300, 500))])["boxes"].boxes[0]
    places = pseudo.keypoints[:, :, :2]
    assert pseudo.keypoints.dtype == torch.float32 and places.max() > 256
    assert not torch.equal(places, places.bfloat16().float())


def test_only_classes_with_keypoints_have_pseudo_keypoints(clean_catalogs):
    task = RCNNTask(weights=TERMS, source="some_set", keypoint_score=0.0)
    MetadataCatalog.get("some_set").set(
        thing_classes=["car", "person", "rider"], keypoint_classes=["person", "rider"], keypoint_names=["a", "b", "c"]
    )

    class Teacher:
        def keypoints(self, boxes):
            return [torch.full((len(b), 3, 3), 0.5) for b in boxes]

    boxes = [some_boxes(classes=(0, 1)), some_boxes(classes=(2, 0))]
    task.add_keypoints(boxes, Teacher())
    assert [x.keypoints[:, 0, 2].tolist() for x in boxes] == [[0, 1], [1, 0]]  # 1: TERMS has quality "none"
    MetadataCatalog.pop("some_set")


def test_labels_of_both_domains_are_weighted_keypoints():
    truth = with_keypoints()
    (target,) = true_targets([truth], keypoints=True)
    assert target.gt_keypoints.tensor[:, :, 2].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert torch.equal(target.gt_keypoints.tensor[:, :, :2], truth.gt_keypoints.tensor[:, :, :2])
    assert truth.gt_keypoints.tensor[0, 0, 2] == 2, "the truth itself does not change"
    pseudo = some_boxes()
    pseudo.scores, pseudo.keypoints = torch.tensor([0.9, 0.8]), torch.rand(2, 3, 3)
    (target,) = pseudo_targets([pseudo], keypoints=True)
    assert torch.equal(target.gt_keypoints.tensor, pseudo.keypoints)
    assert not pseudo_targets([pseudo])[0].has("gt_keypoints")
    assert not true_targets([truth[np.zeros(2, bool)]], keypoints=True)[0].has("gt_keypoints")


@pytest.mark.parametrize("keys, message", [
    ({"MODEL__KEYPOINT_ON": False}, "set MODEL.KEYPOINT_ON True"),
    ({"MODEL__ROI_HEADS__NAME": "CascadeROIHeads"}, "R-CNN without cascade"),
    ({"MODEL__MIC__STUDENT": "RetinaNet"}, "R-CNN without cascade"),
    ({"MODEL__MIC__LABELLER__JSON": "boxes.json"}, "the boxes of MODEL.MIC.LABELLER have no keypoints"),
])  # fmt: skip
def test_models_and_labels_without_keypoints_are_refused(keys, message):
    with pytest.raises(ConfigError, match=f"MODEL.MIC.CONSISTENCY.KEYPOINT_WEIGHT is 1.0.*{message}"):
        validate_mic_config(tiny_cfg(**{**HEAD, WEIGHT: 1.0, **keys}))


def test_a_student_without_a_keypoint_head_is_refused():
    with pytest.raises(TypeError, match="KEYPOINT_WEIGHT is 1.0, but the student's keypoint head is NoneType"):
        RCNNTask(weights=TERMS).check(student_of())
    with pytest.raises(TypeError, match="keypoint head is NoneType"):
        RCNNTask(weights=TERMS).check(student_of(**C4))
    RCNNTask(weights=TERMS).check(student_of(**HEAD))
