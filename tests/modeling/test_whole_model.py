"""Detectors whose own forward gives all losses: RetinaNet, FCOS, Cascade R-CNN."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import fcos
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from helpers.models import ALL_BOXES, source_input, target_input, tiny_cfg
from mic_det.benchmark.synthetic import synthetic_batch
from mic_det.benchmark.variants import make_variant, variant_names
from mic_det.checkpoint.matching import match_shapes
from mic_det.config import validate_mic_config
from mic_det.errors import CheckpointError, ConfigError
from mic_det.modeling.tasks import RCNNTask, WholeModelTask

DENSE = {
    "MODEL__BACKBONE__NAME": "build_retinanet_resnet_fpn_backbone", "MODEL__FPN__IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL__RESNETS__OUT_FEATURES": ["res3", "res4", "res5"], "MODEL__RETINANET__NUM_CLASSES": 3,
    "MODEL__RETINANET__NUM_CONVS": 1, "MODEL__RETINANET__PRIOR_PROB": 0.3, "MODEL__RETINANET__SCORE_THRESH_TEST": 0.01,
    "MODEL__ANCHOR_GENERATOR__SIZES": [[16], [32], [64], [96], [128]],
}  # fmt: skip
FCOS = {k: v for k, v in DENSE.items() if "RETINANET" not in k}
STUDENTS = {
    "FCOS": {
        **FCOS,
        "MODEL__MIC__STUDENT": "FCOS",
        "MODEL__FCOS__NUM_CLASSES": 3,
        "MODEL__FCOS__NUM_CONVS": 1,
        "MODEL__FCOS__PRIOR_PROB": 0.3,
        "MODEL__FCOS__SCORE_THRESH_TEST": 0.01,
        "MODEL__FCOS__NORM": "",  # GroupNorm of 32 groups needs more channels
    },
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
        "MODEL__MIC__STRONG_AUG__JITTER_PROB": 0.0,
        "MODEL__MIC__STRONG_AUG__BLUR_PROB": 0.0,
        "MODEL__MIC__PSEUDO_BOXES__NMS_THRESHOLD": 1.0,
    }  # clipped boxes overlap more than those of its own NMS
    sampling = {"MODEL__RPN__BATCH_SIZE_PER_IMAGE": 100000, "MODEL__RPN__POSITIVE_FRACTION": 1.0,
                "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 1000, "MODEL__ROI_HEADS__POSITIVE_FRACTION": 1.0}  # fmt: skip
    model = make(name, **plain, **sampling, MODEL__MIC__CONSISTENCY__WEIGHT=0.7).train()
    targets = [target_input(), target_input(5, (48, 80))]
    found = model([source_input(), *targets])
    other = make(name, **plain, **sampling).train()  # the same weights, and numbers of objects that start anew
    expected = {}
    with torch.no_grad():
        for x in targets:
            (answer,) = other.teacher([{"image": x["image"]}])
            boxes = answer["instances"]
            boxes = boxes[boxes.scores >= 0.05]
            labels = Instances(boxes.image_size, gt_boxes=boxes.pred_boxes, gt_classes=boxes.pred_classes)
            for key, v in other.student([{"image": x["image"], "instances": labels}]).items():
                if not any(x in key for x in ("box_reg", "loc", "ctr")):
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


@pytest.mark.parametrize("name, key", [("RetinaNet", "RETINANET"), ("FCOS", "FCOS"), ("Cascade", "ROI_HEADS")])
def test_the_key_of_the_classes_is_the_detectors_own(name, key):
    model = make(name)
    assert model.task("boxes").num_classes(model.student) == 3
    assert model.task("boxes").classes_key(model.student) == f"MODEL.{key}.NUM_CLASSES"
    cfg = tiny_cfg(**{**STUDENTS[name], "MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD_PER_CLASS": (0.5, 0.5)})
    with pytest.raises(ConfigError, match=rf"has 2 values, but MODEL.{key}.NUM_CLASSES is 3"):
        validate_mic_config(cfg)


@pytest.mark.parametrize("name, start", [("RetinaNet", 100), ("FCOS", 300)])
def test_masked_images_have_a_number_of_objects_of_their_own(name, start):
    """By hand: 0.9 x the number so far + 0.1 x that of a labelled batch, as where the detector trains alone."""
    model, alone = make(name).train(), make(name).student.train()
    sources = [source_input(), source_input(2)]
    for step in range(1, 3):
        model([*sources, target_input(), target_input(5)])
        with EventStorage() as storage:
            alone(sources)
        positives = 2 * storage.latest()["num_pos_anchors"][0]
        assert model.student.loss_normalizer == alone.loss_normalizer
        assert alone.loss_normalizer == pytest.approx(0.9**step * start + (1 - 0.9**step) * positives)
    masked = model.student.masked_loss_normalizer
    assert masked != alone.loss_normalizer and not hasattr(model.teacher, "loss_normalizer")
    # two masked images a step
    assert masked >= 0.9**4 * start


@pytest.mark.parametrize("key, value", [("CONSISTENCY.TARGETS", "soft"), ("PSEUDO_BOXES.IGNORE_SCORE", 0.03)])
@pytest.mark.parametrize("name", STUDENTS)
def test_what_needs_the_regions_of_an_rcnn_is_refused(name, key, value):
    with pytest.raises(ConfigError, match=f"MODEL.MIC.{key} is {value!r}.*use ('hard'|0)"):
        make(name, **{f"MODEL__MIC__{key.replace('.', '__')}": value})


@pytest.mark.parametrize("quality", ["student", "published"])
def test_weights_of_regions_are_refused(quality):
    with pytest.raises(ConfigError, match="MODEL.MIC.CONSISTENCY.QUALITY .* one weight per image"):
        make("RetinaNet", MODEL__MIC__CONSISTENCY__QUALITY=quality)


@pytest.mark.parametrize("name", STUDENTS)
def test_alignment_is_refused(name):
    with pytest.raises(ConfigError, match="MODEL.MIC.ALIGNMENT is for detectors with a Faster R-CNN's regions"):
        make(name, MODEL__MIC__ALIGNMENT__IMAGE__ENABLED=True)


def test_masks_of_a_cascade_are_refused():
    with pytest.raises(TypeError, match="MODEL.MASK_ON is True"):
        make("Cascade", MODEL__MASK_ON=True, MODEL__ROI_MASK_HEAD__NAME="MaskRCNNConvUpsampleHead")


def test_fcos_of_a_config_is_detectron2s():
    """The same weights in Detectron2's own class, built from Python, predict the same."""
    ours = make("FCOS").student.eval()
    shapes = list(ours.backbone.output_shape().values())
    head = fcos.FCOSHead(input_shape=shapes, num_classes=3, conv_dims=[16])
    theirs = fcos.FCOS(
        backbone=ours.backbone, head=head, num_classes=3, test_score_thresh=0.01,
        pixel_mean=[103.53, 116.28, 123.675], pixel_std=[60.0, 60.0, 60.0],
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        (a,), (b,) = ours([target_input()]), theirs([target_input()])
    assert len(a["instances"]) > 0
    torch.testing.assert_close(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor, rtol=0, atol=0)
    for key in ("focal_loss_alpha", "focal_loss_gamma", "center_sampling_radius", "test_topk_candidates",
                "test_nms_thresh", "max_detections_per_image"):  # fmt: skip
        assert getattr(ours, key) == getattr(theirs, key), key


def test_a_new_heads_bias_says_the_prior_probability():
    bias = make("FCOS", MODEL__FCOS__PRIOR_PROB=0.2).student.head.cls_score.bias
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.2))


@pytest.mark.parametrize("name, key", [("RetinaNet", "RETINANET"), ("FCOS", "FCOS")])
def test_weights_of_another_number_of_classes_leave_the_classifier_new(name, key, caplog):
    state = make(name, **{f"MODEL__{key}__NUM_CLASSES": 5}).student.state_dict()
    student = make(name).student
    taken = match_shapes(state, student, "file.pth", 0.9, complete=False)
    assert student.state_dict().keys() - taken.keys() == {"head.cls_score.weight", "head.cls_score.bias"}
    assert f"another number of classes (MODEL.{key}.NUM_CLASSES): the weights of head.cls_score" in caplog.text
    with pytest.raises(CheckpointError, match=f"another number of classes than MODEL.{key}.NUM_CLASSES says"):
        match_shapes(state, student, "file.pth", 0.9, complete=True)


def test_the_benchmark_compares_what_there_is_for_the_model():
    """An alignment and a segmentation beside the boxes are an R-CNN's."""
    names = ["plain", "teacher", "mic", "mic_sequential"]
    for name in STUDENTS:
        assert variant_names(tiny_cfg(**STUDENTS[name])) == names
    assert {"mic_sada", "mic_seg", *names} < set(variant_names(tiny_cfg()))


@pytest.mark.parametrize("name", STUDENTS)
def test_the_benchmarks_step_has_pseudo_boxes_and_labels_of_the_models_classes(name):
    cfg = tiny_cfg(**STUDENTS[name], SOLVER__IMS_PER_BATCH=1)
    batches = [synthetic_batch(cfg, (64, 96), torch.Generator().manual_seed(0))]
    assert max(int(x["instances"].gt_classes.max()) for x in batches[0]) < 3
    variant = make_variant(cfg, "mic", batches)
    pseudo = variant.model.eval().pseudo_labels([x for x in batches[0] if x["domain"] == "target"])["boxes"]
    assert all(map(len, pseudo.boxes))
    variant.model.train()
    variant.run()
