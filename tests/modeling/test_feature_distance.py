"""The thing-class feature distance: by hand on tiny maps, without things, inside MIC and around HRDA."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model

from helpers.models import source_input, target_input, tiny_cfg
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.checkpoint.reference import load_reference
from mic_det.config import validate_mic_config
from mic_det.errors import CheckpointError, ConfigError
from mic_det.modeling.hrda import BOXES
from mic_det.modeling.terms import FeatureDistance
from mic_det.modeling.terms.feature_distance import feature_distance, thing_positions
from mic_det.modeling.torchvision_backbone import TorchvisionStages

MOBILENET = {
    "MODEL__MIC__STUDENT": "SemanticSegmentor", "MODEL__BACKBONE__NAME": "build_torchvision_backbone",
    "MODEL__TORCHVISION__NAME": "mobilenet_v2", "MODEL__SEM_SEG_HEAD__NAME": "DAFormerHead",
    "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 4, "MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 255,
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3", "res4", "res5"], "MODEL__SEM_SEG_HEAD__CONVS_DIM": 8,
    "MODEL__SEM_SEG_HEAD__NORM": "", "MODEL__MIC__FEATURE_DISTANCE__WEIGHT": 0.5,
    "MODEL__MIC__FEATURE_DISTANCE__CLASSES": (1, 3),
}  # fmt: skip
HRDA = {
    **MOBILENET, "MODEL__BACKBONE__NAME": "build_hrda_backbone", "MODEL__SEM_SEG_HEAD__NAME": "HRDAHead",
    "MODEL__HRDA__BACKBONE": "build_torchvision_backbone", "MODEL__HRDA__HEAD": "DAFormerHead",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ by hand


def test_the_distance_of_a_tiny_map():
    """Differences (3, 4), (0, 0), (5, 12) and (8, 15): norms 5, 0, 13 and 17."""
    reference = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[0.0, 7.0], [1.0, 0.0]]])[None]
    features = reference + torch.tensor([[[3.0, 0.0], [5.0, 8.0]], [[4.0, 0.0], [12.0, 15.0]]])[None]
    positions = torch.tensor([[[True, True], [True, False]]])
    assert feature_distance(features, reference, positions) == 6  # (5 + 0 + 13) / 3
    assert feature_distance(features, reference, ~positions) == 17


def test_without_things_it_is_0_with_gradient_0_and_equal_features_give_no_nan():
    reference = torch.randn(2, 3, 4, 4)
    features = reference.clone().requires_grad_()
    for positions in (torch.zeros(2, 4, 4, dtype=torch.bool), torch.ones(2, 4, 4, dtype=torch.bool)):
        loss = feature_distance(features, reference, positions)
        loss.backward()
        assert loss == 0 and torch.equal(features.grad, torch.zeros_like(features))


def test_positions_are_patches_of_mostly_one_thing():
    """Patches of 2 x 4 pixels; things are 1 and 3, and 255 is ignored but counts as pixels."""
    patches = {
        "six of eight are 1": [1, 1, 1, 1, 1, 1, 0, 0], "five of eight": [1, 1, 1, 1, 1, 0, 0, 0],
        "stuff": [0] * 8, "ignored": [255] * 8, "two ignored": [3, 3, 3, 3, 3, 3, 255, 255],
        "three ignored": [3, 3, 3, 3, 3, 255, 255, 255],
    }  # fmt: skip
    labels = torch.cat([torch.tensor(p).view(2, 4) for p in patches.values()], dim=1)[None]
    found = thing_positions(labels, (1, 6), (1, 3), 0.75, num_classes=4)
    assert found.tolist() == [[[True, False, False, False, True, False]]]
    assert thing_positions(labels, (1, 6), (1, 3), 0.625, 4).sum() == 4
    assert thing_positions(labels, (2, 6), (1,), 1.0, 4)[0, :, 0].tolist() == [True, False]


# ------------------------------------------------------------------------------------------------ inside of MIC


def build(keys, **more):
    torch.manual_seed(0)
    model = build_model(tiny_cfg(**{**keys, **more})).train()
    (term,) = [t for t in model.terms if isinstance(t, FeatureDistance)]
    term.filled = True
    with torch.no_grad():  # as the student's encoder after some training
        for p in term.reference.parameters():
            p += 0.05 * torch.randn_like(p) * p.abs().mean()
    return model, term


def labelled(size=(64, 128)):
    labels = torch.zeros(size, dtype=torch.int64)
    labels[:, 64:] = 1
    labels[32:] = torch.where(torch.rand(labels[32:].shape) < 0.5, 2, labels[32:])
    return {**source_input(0, size), "sem_seg": labels}


def test_the_term_is_the_distance_of_the_last_stage_on_source_images():
    model, term = build(MOBILENET)
    before, inputs = len(model.state_dict()), [labelled(), target_input(1, (64, 128))]
    losses = model(inputs)
    image = (inputs[0]["image"] - model.student.pixel_mean) / model.student.pixel_std
    with torch.no_grad():
        ours, theirs = model.student.backbone(image[None])["res5"], term.reference(image[None])["res5"]
    assert ours.shape[-2:] == (2, 4)
    norms = (ours - theirs).pow(2).sum(dim=1).sqrt()[0]
    # of the upper right quarter, all pixels are 1; below, half of them
    torch.testing.assert_close(losses["source/loss_feature_distance"], 0.5 * norms[0, 2:].mean(), rtol=1e-4, atol=1e-6)
    sum(losses.values()).backward()
    assert all(p.grad is None for p in term.reference.parameters()) and not term.reference.training
    assert len(model.state_dict()) == before and not any("reference" in k for k in model.state_dict())


def test_a_source_image_without_things_has_no_part_in_it():
    model, _ = build(MOBILENET)
    found = model([{**labelled(), "sem_seg": torch.zeros(64, 128, dtype=torch.int64)}])
    assert found["source/loss_feature_distance"] == 0
    found["source/loss_feature_distance"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.student.parameters())


def test_of_two_scales_it_is_the_contexts():
    model, term = build(HRDA, MODEL__HRDA__DETAIL_SIZE=(64, 64))
    inputs = [labelled((128, 256))]
    inputs[0]["sem_seg"][:] = 0
    inputs[0]["sem_seg"][:64, 128:192] = 3  # one patch of 64 x 64 pixels, which is 32 x 32 of the context
    losses = model(inputs)
    image = (inputs[0]["image"] - model.student.pixel_mean) / model.student.pixel_std
    small = F.interpolate(image[None], scale_factor=0.5, mode="bilinear", align_corners=False)
    with torch.no_grad():
        ours, theirs = (b(small)["res5"] for b in (model.student.backbone.bottom_up, term.reference))
    expected = 0.5 * (ours - theirs).norm(dim=1)[0, 0, 2]
    torch.testing.assert_close(losses["source/loss_feature_distance"], expected, rtol=1e-4, atol=1e-6)


def test_where_the_detail_is_the_whole_image_both_scales_count():
    model, term = build(HRDA, MODEL__HRDA__DETAIL_SIZE=(128, 256))
    inputs = [labelled((128, 256))]
    inputs[0]["sem_seg"][:] = 3
    losses = model(inputs)
    image = ((inputs[0]["image"] - model.student.pixel_mean) / model.student.pixel_std)[None]
    expected = 0
    with torch.no_grad():
        assert model.student.backbone(image)[BOXES].tolist() == [[[0, 0, 128, 256]]]
        for x in (image, F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)):
            ours, theirs = (b(x)["res5"] for b in (model.student.backbone.bottom_up, term.reference))
            expected += 0.5 * (ours - theirs).norm(dim=1).mean()
    torch.testing.assert_close(losses["source/loss_feature_distance"], expected, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------ its weights


@pytest.fixture
def imagenet(tmp_path):
    """A file of torchvision's names, with weights that no student has."""
    torch.manual_seed(5)
    state = TorchvisionStages("mobilenet_v2", "BN").body.state_dict()
    torch.save(state, tmp_path / "imagenet.pth")
    return str(tmp_path / "imagenet.pth"), state


@pytest.mark.parametrize("keys", [MOBILENET, HRDA], ids=["one scale", "two scales"])
def test_the_frozen_encoder_has_the_files_weights_and_the_student_may_start_elsewhere(imagenet, tmp_path, keys):
    file, state = imagenet
    cfg = tiny_cfg(**keys, MODEL__MIC__FEATURE_DISTANCE__WEIGHTS=file)
    model = build_model(cfg)
    (term,) = [t for t in model.terms if isinstance(t, FeatureDistance)]
    start = copy.deepcopy(model.student.state_dict())
    with pytest.raises(RuntimeError, match="no ImageNet weights: MICTrainer loads them"):
        model.train()([labelled((128, 128))])
    load_reference(cfg, model)
    own = term.reference.body.state_dict()
    assert term.filled and all(torch.equal(own[k], v) for k, v in state.items() if k in own)
    assert all(torch.equal(v, start[k]) for k, v in model.student.state_dict().items())
    # as a run that begins with these weights: no distance yet
    MICCheckpointer(model).load(file)
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        encoder = model.student.backbone.bottom_up if keys is HRDA else model.student.backbone
        torch.testing.assert_close(term.reference(x)["res5"], encoder.eval()(x)["res5"])


def test_files_that_are_no_encoder_with_imagenet_weights_are_refused(imagenet, tmp_path):
    cfg = tiny_cfg(**MOBILENET)
    model = build_model(cfg)
    with pytest.raises(ConfigError, match="neither MODEL.MIC.FEATURE_DISTANCE.WEIGHTS nor MODEL.WEIGHTS"):
        load_reference(cfg, model)
    torch.save({"model": model.state_dict()}, tmp_path / "trained.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "trained.pth")
    with pytest.raises(CheckpointError, match="is a trained model, not an encoder"):
        load_reference(cfg, model)
    torch.save({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "little.pth")
    cfg.MODEL.MIC.FEATURE_DISTANCE.WEIGHTS = str(tmp_path / "little.pth")
    with pytest.raises(CheckpointError, match="fills 1 of .* tensors of the backbone"):
        load_reference(cfg, model)


def test_of_an_fpn_it_is_the_encoder_s_last_stage(imagenet):
    fpn = {**MOBILENET, "MODEL__BACKBONE__NAME": "build_torchvision_fpn_backbone",
           "MODEL__SEM_SEG_HEAD__NAME": "SemSegFPNHead", "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["p2", "p3"]}  # fmt: skip
    model, term = build(fpn, MODEL__MIC__FEATURE_DISTANCE__WEIGHTS=imagenet[0])
    losses = model([labelled()])
    image = ((labelled()["image"] - model.student.pixel_mean) / model.student.pixel_std)[None]
    with torch.no_grad():
        ours, theirs = model.student.backbone.bottom_up(image)["res5"], term.reference(image)["res5"]
    expected = 0.5 * (ours - theirs).norm(dim=1)[0, 0, 2:].mean()
    torch.testing.assert_close(losses["source/loss_feature_distance"], expected, rtol=1e-4, atol=1e-6)
    load_reference(tiny_cfg(**fpn, MODEL__MIC__FEATURE_DISTANCE__WEIGHTS=imagenet[0]), model)
    own = term.reference.body.state_dict()
    assert all(torch.equal(own[k], v) for k, v in imagenet[1].items() if k in own)


def test_a_student_of_boxes_is_refused():
    with pytest.raises(ConfigError, match="needs label maps, but the student GeneralizedRCNN has no segmentation"):
        validate_mic_config(tiny_cfg(MODEL__MIC__FEATURE_DISTANCE__WEIGHT=0.1))
