"""Instance masks in L_M: targets by hand, Detectron2's own loss with true masks, and the terms of a step."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from helpers.consistency import masked, student_of, supervised
from helpers.models import ALL_BOXES, C4, NO_BOXES, random_image, some_boxes, source_input, target_input, tiny_cfg
from mic_det.config import validate_mic_config
from mic_det.errors import ConfigError
from mic_det.modeling.pseudo_labels import select_pseudo_boxes
from mic_det.modeling.tasks.mask_consistency import mask_loss, resampled
from mic_det.modeling.tasks.region_consistency import ConsistencyWeights

pytestmark = pytest.mark.slow
MASKS = {"MODEL__MASK_ON": True, "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead",
         "MODEL__ROI_MASK_HEAD__CONV_DIM": 8, "MODEL__ROI_MASK_HEAD__NUM_CONV": 1,
         "MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION": 4}  # fmt: skip
TERMS = ConsistencyWeights(1.0, 1.0, 0.0, 0.0, quality="none", mask=1.0)


def with_masks(size=(64, 96), classes=(0, 2)):
    """True masks: an ellipse in each box."""
    targets = some_boxes(size, classes)
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
    x0, y0, x1, y1 = (v[:, None, None] for v in targets.gt_boxes.tensor.unbind(1))
    inside = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
    targets.gt_masks = BitMasks(inside)
    return targets


def bilinear(mask, u, v):
    """Value of a mask of S x S cells at (u, v) in [0, 1], between the centres of cells; 0 outside, by loops."""
    if not (0 <= u <= 1 and 0 <= v <= 1):
        return 0.0
    size, total = len(mask), 0.0
    x, y = u * size - 0.5, v * size - 0.5
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            total += share * float(mask[min(max(row, 0), size - 1)][min(max(column, 0), size - 1)])
    return total


def by_hand(mask, box, region, side):
    """The mask of a box, seen in another region."""
    width, height = box[2] - box[0], box[3] - box[1]
    return torch.tensor(
        [
            [
                bilinear(
                    mask,
                    (region[0] + (j + 0.5) / side * (region[2] - region[0]) - box[0]) / width,
                    (region[1] + (i + 0.5) / side * (region[3] - region[1]) - box[1]) / height,
                )
                for j in range(side)
            ]
            for i in range(side)
        ]
    )


def test_masks_are_seen_in_other_regions_as_by_hand():
    torch.manual_seed(0)
    masks = torch.rand(4, 7, 7)
    boxes = torch.tensor([[10.0, 20.0, 38.0, 48.0]]).expand(4, 4)
    regions = torch.tensor(
        [[10.0, 20.0, 38.0, 48.0], [14.0, 20.0, 42.0, 48.0], [3.0, 11.0, 50.0, 41.0], [60.0, 60.0, 80.0, 90.0]]
    )
    found = resampled(masks, boxes, regions, 7)
    for i in range(4):
        expected = by_hand(masks[i].tolist(), boxes[i].tolist(), regions[i].tolist(), 7)
        torch.testing.assert_close(found[i], expected)
    torch.testing.assert_close(found[0], masks[0])  # the box itself: the mask itself
    torch.testing.assert_close(found[1][:, :6], masks[1][:, 1:])  # one cell to the right
    assert not found[1][:, 6].any() and not found[3].any()  # outside


@pytest.mark.parametrize("heads", [{}, C4, {"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True}])
def test_with_true_masks_the_loss_is_detectron2s(heads):
    student = student_of(**{**heads, **MASKS})
    with EventStorage():
        expected = supervised(student, [with_masks(), with_masks(classes=(1,))])
        found = masked(student, [with_masks(), with_masks(classes=(1,))], TERMS, true_labels=[True, True])
    assert expected["loss_mask"] > 0.1
    torch.testing.assert_close(found["loss_mask"], expected["loss_mask"])
    torch.testing.assert_close(found["loss_cls"], expected["loss_cls"])


@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_of_pseudo_masks_by_hand(soft):
    torch.manual_seed(2)
    student = student_of(**MASKS)
    heads, features = student.roi_heads, student.backbone(student.preprocess_image(
        [{"image": random_image(seed=i)} for i in range(3)]).tensor)  # fmt: skip
    sampled = []
    for boxes in ([[4.0, 6.0, 40.0, 50.0], [8.0, 2.0, 45.0, 55.0], [0.0, 0.0, 9.0, 9.0]], [], [[5.0, 5.0, 60.0, 40.0]]):
        x = Instances((64, 96), proposal_boxes=Boxes(torch.tensor(boxes).view(-1, 4)))
        x.gt_classes = torch.tensor([2, 0, 3][: len(boxes)], dtype=torch.int64)  # 3 = background
        x.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 40.0, 50.0]]).repeat(len(boxes), 1))
        x.gt_mask_probs = torch.rand(len(boxes), 8, 8)
        sampled.append(x)
    q = torch.tensor([0.9, 0.3, 0.7, 0.5])
    found = mask_loss(heads, features, sampled, q, soft)
    total = 0.0
    for image, region, weight in ((0, 0, 0.9), (0, 1, 0.3), (2, 0, 0.5)):
        x = sampled[image][region : region + 1]
        own = {k: v[image : image + 1] for k, v in features.items()}
        pooled = heads.mask_pooler([own[f] for f in heads.mask_in_features], [x.proposal_boxes])
        logits = heads.mask_head.layers(pooled)[0, int(x.gt_classes)]
        target = by_hand(x.gt_mask_probs[0].tolist(), x.gt_boxes.tensor[0].tolist(),
                         x.proposal_boxes.tensor[0].tolist(), 8)  # fmt: skip
        target = target if soft else (target >= 0.5).float()
        p = logits.sigmoid()
        total += weight * -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(found, total / 3)
    assert mask_loss(heads, features, [x[:0] for x in sampled], q[:0], soft) == 0


def test_each_pseudo_box_has_its_own_mask():
    """The best two of three overlapping boxes, in the order of their scores."""
    found = Instances((64, 96), pred_boxes=Boxes(torch.tensor(
        [[0.0, 0, 20, 20], [1.0, 0, 20, 20], [50.0, 10, 70, 30], [10.0, 30, 40, 60]])))  # fmt: skip
    found.scores, found.pred_classes = torch.tensor([0.85, 0.9, 0.99, 0.1]), torch.tensor([1, 1, 2, 0])
    found.pred_masks = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 5, 5)
    pseudo = select_pseudo_boxes(found, 0.8, 0.5)
    assert pseudo.mask_probs.shape == (2, 5, 5) and pseudo.mask_probs[:, 0, 0].tolist() == [2.0, 1.0]
    found.pred_masks = torch.zeros(4, 64, 96, dtype=torch.bool)  # pasted into the image: masks of results, not labels
    assert not select_pseudo_boxes(found, 0.8, 0.5).has("mask_probs")


def mic(**keys):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**{**MASKS, **ALL_BOXES, "MODEL__MIC__CONSISTENCY__MASK_WEIGHT": 1.0, **keys})).train()


def step(model, seed=3):
    source = source_input()
    source["instances"] = with_masks()
    torch.manual_seed(seed)
    with EventStorage():
        return model([source, target_input()])


@pytest.mark.parametrize("keys", [
    {}, {"MODEL__MIC__CONSISTENCY__TARGETS": "soft"}, {"MODEL__MIC__TEACHER__INPUT_SIZE": 96},
    {"MODEL__MIC__MASK__DOMAINS": "both"}, {"MODEL__MIC__PSEUDO_BOXES__IGNORE_SCORE": 0.01},
    {"MODEL__MIC__ALIGNMENT__INSTANCE__ENABLED": True},
])  # fmt: skip
def test_a_step_trains_the_mask_head_by_its_weight(keys):
    losses = {w: step(mic(**{**keys, "MODEL__MIC__CONSISTENCY__MASK_WEIGHT": w})) for w in (0.0, 1.0, 0.5)}
    assert "masked/loss_mask" not in losses[0.0] and losses[1.0]["masked/loss_mask"] > 0.05
    torch.testing.assert_close(losses[0.5]["masked/loss_mask"], losses[1.0]["masked/loss_mask"] * 0.5)
    for name, value in losses[0.0].items():  # nothing else of the step changes
        torch.testing.assert_close(value, losses[1.0][name])
    model = mic(**keys)
    step(model)["masked/loss_mask"].backward()
    assert model.student.roi_heads.mask_head.predictor.weight.grad.abs().sum() > 0
    assert model.student.backbone.bottom_up.res5[0].conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.teacher.parameters())


def test_without_a_pseudo_box_the_term_is_zero():
    assert step(mic(**NO_BOXES))["masked/loss_mask"] == 0


def test_pseudo_masks_are_those_of_the_teacher_at_its_own_size():
    """The mask of a box is the same part of the object at any size of the image; the box is scaled back."""
    model = mic(MODEL__MIC__TEACHER__INPUT_SIZE=128)
    view = model.teacher_view([target_input()])
    pseudo = model.tasks[0].pseudo_labels(model.teacher.eval(), view).boxes[0]
    larger = F.interpolate(target_input()["image"][None].float(), size=(128, 192), mode="bilinear", antialias=True)[0]
    with torch.no_grad():
        found = model.teacher.inference([{"image": larger}], do_postprocess=False)[0]
    for box, mask in zip(pseudo.gt_boxes.tensor, pseudo.mask_probs):
        i = (found.pred_boxes.tensor / 2 - box).abs().amax(dim=1).argmin()
        torch.testing.assert_close(found.pred_boxes.tensor[i] / 2, box)
        torch.testing.assert_close(found.pred_masks[i, 0], mask)
    assert len(pseudo) > 3


@pytest.mark.parametrize("keys, message", [
    ({"MODEL__MASK_ON": False}, "set MODEL.MASK_ON True"),
    ({"MODEL__ROI_HEADS__NAME": "CascadeROIHeads"}, "R-CNN without cascade"),
    ({"MODEL__MIC__STUDENT": "RetinaNet"}, "R-CNN without cascade"),
    ({"MODEL__MIC__LABELLER__JSON": "boxes.json"}, "the boxes of MODEL.MIC.LABELLER have no masks"),
])  # fmt: skip
def test_models_without_masks_are_refused(keys, message):
    keys = {**MASKS, "MODEL__MIC__CONSISTENCY__MASK_WEIGHT": 1.0, **keys}
    with pytest.raises(ConfigError, match=f"MODEL.MIC.CONSISTENCY.MASK_WEIGHT is 1.0.*{message}"):
        validate_mic_config(tiny_cfg(**keys))
