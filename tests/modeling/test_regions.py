"""An R-CNN's parts called one by one give what Detectron2's own forward gives."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks

from helpers.models import C4, random_image, some_boxes, tiny_cfg
from mic_det.modeling.regions import (
    region_features,
    rpn_predictions,
    supervised_roi_losses,
    unlabelled_regions,
)

MASKS = {"MODEL__MASK_ON": True, "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead",
         "MODEL__ROI_MASK_HEAD__NUM_CONV": 1, "MODEL__ROI_MASK_HEAD__CONV_DIM": 8}  # fmt: skip
ON_PREDICTED = {"MODEL__ROI_BOX_HEAD__TRAIN_ON_PRED_BOXES": True}


def student_and_inputs(**overrides):
    student = build_model(tiny_cfg(MODEL__META_ARCHITECTURE="GeneralizedRCNN", **overrides)).train()
    truth = [some_boxes(), some_boxes(classes=(1,)), some_boxes(classes=())]
    for x in truth:
        x.gt_masks = BitMasks(torch.rand(len(x), 64, 96) > 0.5)
    images = student.preprocess_image([{"image": random_image(seed=i)} for i in range(3)])
    return student, images, student.backbone(images.tensor), truth


@pytest.mark.parametrize(
    "overrides", [{}, C4, MASKS, {**C4, **MASKS}, {**MASKS, **ON_PREDICTED}],
    ids=["boxes", "C4", "masks", "C4 masks", "masks on predicted boxes"],
)  # fmt: skip
def test_losses_are_detectron2s_own(overrides):
    student, images, features, truth = student_and_inputs(**overrides)
    proposals, _ = student.proposal_generator(images, features, truth)
    torch.manual_seed(3)
    _, theirs = student.roi_heads(images, features, proposals, truth)
    torch.manual_seed(3)
    ours, regions = supervised_roi_losses(student.roi_heads, features, proposals, truth)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    torch.testing.assert_close(regions.features, region_features(student.roi_heads, features, regions.boxes))


def test_unlabelled_regions_are_a_random_part_of_the_proposals():
    student, images, features, _ = student_and_inputs()
    regions = unlabelled_regions(student, images, features, 7)
    assert [len(b) for b in regions.boxes] == [7] * 3 and regions.features.shape == (21, 16)
    with torch.no_grad():
        student.proposal_generator.training = False  # all of them, without labels
        student.proposal_generator.pre_nms_topk[False] = student.proposal_generator.pre_nms_topk[True]
        student.proposal_generator.post_nms_topk[False] = student.proposal_generator.post_nms_topk[True]
        proposals, _ = student.proposal_generator(images, features, None)
    for drawn, everything in zip(regions.boxes, proposals):
        rows = (drawn.tensor[:, None] == everything.proposal_boxes.tensor[None]).all(dim=2)
        assert (rows.sum(dim=1) == 1).all() and (rows.sum(dim=0) <= 1).all()
    regions.features.sum().backward()
    assert student.backbone.fpn_lateral2.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in student.proposal_generator.parameters())


def test_drawn_regions_are_not_the_best_proposals():
    """The RPN's proposals come sorted by score: the mean rank of those drawn is that of all, (n - 1) / 2."""
    student, images, features, _ = student_and_inputs()
    rpn = student.proposal_generator
    with torch.no_grad():
        proposals = rpn.predict_proposals(*rpn_predictions(rpn, features), images.image_sizes)
        ranks = []
        for _ in range(30):
            for boxes, everything in zip(unlabelled_regions(student, images, features, 5).boxes, proposals):
                same = (boxes.tensor[:, None] == everything.proposal_boxes.tensor[None]).all(dim=2)
                ranks.append(same.float().argmax(dim=1) / (len(everything) - 1))
    ranks = torch.cat(ranks)
    assert len(everything) >= 20 and len(ranks) == 450
    # a uniform share has the standard deviation 0.29, and the mean of 450 at most 0.29 / sqrt(450) = 0.014
    assert abs(ranks.mean() - 0.5) < 4 * 0.014
    assert abs(ranks.std() - 0.29) < 0.03
