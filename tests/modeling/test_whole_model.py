"""Detectors whose own forward gives all losses: RetinaNet, FCOS, Cascade R-CNN."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

from conftest import ALL_BOXES, source_input, target_input, tiny_cfg
from mic_det.modeling.tasks import RCNNTask, WholeModelTask

DENSE = {
    "MODEL__BACKBONE__NAME": "build_retinanet_resnet_fpn_backbone", "MODEL__FPN__IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL__RESNETS__OUT_FEATURES": ["res3", "res4", "res5"], "MODEL__RETINANET__NUM_CLASSES": 3,
    "MODEL__RETINANET__NUM_CONVS": 1, "MODEL__RETINANET__PRIOR_PROB": 0.3, "MODEL__RETINANET__SCORE_THRESH_TEST": 0.01,
    "MODEL__ANCHOR_GENERATOR__SIZES": [[16], [32], [64], [96], [128]],
}  # fmt: skip
STUDENTS = {
    "RetinaNet": {**DENSE, "MODEL__MIC__STUDENT": "RetinaNet"},
    "Cascade": {"MODEL__ROI_HEADS__NAME": "CascadeROIHeads", "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True},
}


def make(name, **more):
    torch.manual_seed(0)
    model = build_model(tiny_cfg(**{**ALL_BOXES, **STUDENTS[name], **more}))
    assert isinstance(model.task("boxes"), WholeModelTask)
    return model


@pytest.mark.parametrize("name", STUDENTS)
def test_losses_of_both_domains_reach_the_student_alone(name):
    model = make(name).train()
    losses = model([source_input(), target_input(), target_input(5, (48, 80))])
    assert {k.split("/")[0] for k in losses} == {"source", "masked"}
    assert all(v.isfinite() and v > 0 for v in losses.values())
    sum(losses.values()).backward()
    for key, p in model.student.named_parameters():
        assert (p.grad is not None) == p.requires_grad, key
    assert all(p.grad is None for p in model.teacher.parameters())


@pytest.mark.parametrize("name", STUDENTS)
def test_the_masked_loss_is_the_detectors_own_times_q(name):
    """By hand: pseudo-boxes are the teacher's detections, the loss of each image counts times their mean score."""
    plain = {
        "MODEL__MIC__MASK__RATIO": 0.0,
        "MODEL__MIC__COLOR__JITTER_PROB": 0.0,
        "MODEL__MIC__COLOR__BLUR_PROB": 0.0,
        "MODEL__MIC__PSEUDO_BOXES__NMS_THRESHOLD": 1.0,
    }  # clipped boxes overlap more than those of its own NMS
    sampling = {"MODEL__RPN__BATCH_SIZE_PER_IMAGE": 100000, "MODEL__RPN__POSITIVE_FRACTION": 1.0,
                "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 1000, "MODEL__ROI_HEADS__POSITIVE_FRACTION": 1.0}  # fmt: skip
    model = make(name, **plain, **sampling, MODEL__MIC__CONSISTENCY__WEIGHT=0.7).train()
    targets = [target_input(), target_input(5, (48, 80))]
    found = model([source_input(), *targets])
    # RetinaNet's normaliser is a running mean that each forward moves: start again from the same weights
    other = make(name, **plain, **sampling).train()
    expected = {}
    other.student([source_input()])
    with torch.no_grad():
        for x in targets:
            (answer,) = other.teacher([{"image": x["image"]}])
            boxes = answer["instances"]
            boxes = boxes[boxes.scores >= 0.05]
            labels = Instances(boxes.image_size, gt_boxes=boxes.pred_boxes, gt_classes=boxes.pred_classes)
            for key, v in other.student([{"image": x["image"], "instances": labels}]).items():
                if "box_reg" not in key and "loc" not in key:
                    expected[key] = expected.get(key, 0) + 0.7 * boxes.scores.mean() * v / 2
    masked = {k[len("masked/") :]: v.detach() for k, v in found.items() if k.startswith("masked/")}
    assert masked.keys() == expected.keys()
    for key, v in expected.items():
        torch.testing.assert_close(masked[key], v, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", STUDENTS)
def test_no_pseudo_boxes_is_zero_with_the_same_terms(name):
    found = make(name).train()([source_input(), target_input()])
    model = make(name, MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD=1.0).train()
    losses = model([source_input(), target_input()])
    assert losses.keys() == found.keys()
    assert all(v == 0 for k, v in losses.items() if k.startswith("masked/"))


@pytest.mark.parametrize("name", STUDENTS)
def test_the_teacher_predicts_in_the_size_of_the_file_or_of_the_input(name):
    model = make(name).eval()
    x = {"image": target_input()["image"], "height": 128, "width": 192}
    with torch.no_grad():
        (whole,) = model([x])
        (inner,) = model.inference([x], do_postprocess=False)
        (expected,) = model.teacher([x])
    assert whole["instances"].image_size == (128, 192) and inner.image_size == (64, 96)
    assert len(whole["instances"]) > 0
    torch.testing.assert_close(whole["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)


def test_an_rcnn_whose_parts_are_known_is_weighted_region_by_region():
    assert isinstance(build_model(tiny_cfg()).task("boxes"), RCNNTask)
