"""Weights of others: torchvision's ResNets, other frameworks' teachers, other shapes: what is taken, what is told."""

import copy
import logging

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from helpers.data import disturb, forget_registered_sets, load, tiny_config, write_two_domains
from helpers.models import C4, tiny_cfg
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.checkpoint.matching import resnet_names
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import CheckpointError

pytestmark = pytest.mark.slow

FROZEN = {"MODEL__RESNETS__NORM": "FrozenBN", "MODEL__FPN__NORM": ""}


def build(kind="GeneralizedRCNN", **keys):
    cfg = tiny_cfg(MODEL__META_ARCHITECTURE=kind, **keys)
    return MICTrainer.build_model(cfg).eval()


def equal(a, b, but=()):
    a, b = a.state_dict(), b.state_dict()
    keys = [k for k in a if not k.startswith(tuple(but))]
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in keys)


def told(caplog):
    return "\n".join(r.getMessage() for r in caplog.records)


@pytest.fixture(autouse=True)
def all_levels(caplog):
    caplog.set_level(logging.INFO)


# ------------------------------------------------------------------------------ torchvision's ResNets

RESNET50 = {"MODEL__RESNETS__DEPTH": 50, "MODEL__RESNETS__RES2_OUT_CHANNELS": 256,
            "MODEL__RESNETS__STRIDE_IN_1X1": False}  # fmt: skip


def classifier(name):
    """With statistics as after training, not 0 and 1."""
    model = getattr(torchvision.models, name)(weights=None).eval()
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(m.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(m.weight, 0.5, 1.0)
            torch.nn.init.uniform_(m.bias, -0.1, 0.1)
    return model


def stages(model, x):
    """What torchvision's own network computes, stage by stage."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    found = {}
    for i in range(1, 5):
        x = getattr(model, f"layer{i}")(x)
        found[f"res{i + 1}"] = x
    return found


@pytest.mark.parametrize("name, keys", [("resnet18", {}), ("resnet50", RESNET50)])
@pytest.mark.parametrize("kind", ["GeneralizedRCNN", "MIC"])
def test_detectron2s_resnet_computes_what_torchvisions_does(tmp_path, name, keys, kind):
    theirs = classifier(name)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    model = build(kind, **FROZEN, **keys)
    MICCheckpointer(model).load(str(tmp_path / "resnet.pth"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = stages(theirs, image)
        for part in [model] if kind == "GeneralizedRCNN" else [model.student, model.teacher]:
            found = part.backbone.bottom_up(image)
            assert found.keys() == expected.keys()
            for k, v in expected.items():
                assert torch.allclose(found[k], v, rtol=1e-3, atol=1e-4 * float(v.abs().max())), k


def test_of_a_c4_detector_the_box_head_gets_the_last_stage(tmp_path):
    keys = {**C4, "MODEL__RESNETS__RES2_OUT_CHANNELS": 256, "MODEL__RESNETS__WIDTH_PER_GROUP": 64,
            "MODEL__RESNETS__STEM_OUT_CHANNELS": 64, "MODEL__RESNETS__STRIDE_IN_1X1": False}  # fmt: skip
    theirs = classifier("resnet50")
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    model = build(**keys)
    MICCheckpointer(model).load(str(tmp_path / "resnet.pth"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, res4 = stages(theirs, image), model.backbone(image)["res4"]
        assert torch.allclose(res4, expected["res4"], rtol=1e-3, atol=1e-3)
        found = model.roi_heads.res5(expected["res4"])
    assert torch.allclose(found, expected["res5"], rtol=1e-3, atol=1e-3)


def test_every_tensor_of_a_resnet_but_its_classifier_has_a_name():
    theirs = torchvision.models.resnet50(weights=None).state_dict()
    found = resnet_names(theirs)
    assert len(found) == len(theirs) - 2  # fc.weight, fc.bias
    for name in (
        "stem.conv1.weight",
        "stem.conv1.norm.running_var",
        "res2.0.shortcut.norm.bias",
        "res5.2.conv3.weight",
    ):
        assert name in found


ADVICE = [
    ({}, ["MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT RGB"]),
    ({"INPUT__FORMAT": "RGB", "MODEL__PIXEL_MEAN": [123.675, 116.28, 103.53],
      "MODEL__PIXEL_STD": [58.395, 57.12, 57.375]}, []),
]  # fmt: skip


@pytest.mark.parametrize("keys, advice", ADVICE)
def test_settings_that_do_not_go_with_torchvisions_weights_are_told(tmp_path, caplog, keys, advice):
    torch.save(classifier("resnet18").state_dict(), tmp_path / "resnet.pth")
    MICCheckpointer(build(**FROZEN, **keys)).load(str(tmp_path / "resnet.pth"))
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT RGB", "STRIDE_IN_1X1"):
        assert (key in told(caplog)) == (key in advice), key


def test_a_stride_in_the_wrong_place_is_told(tmp_path, caplog):
    torch.save(classifier("resnet50").state_dict(), tmp_path / "resnet.pth")
    MICCheckpointer(build(**FROZEN, **{**RESNET50, "MODEL__RESNETS__STRIDE_IN_1X1": True})).load(
        str(tmp_path / "resnet.pth")
    )
    assert "MODEL.RESNETS.STRIDE_IN_1X1 False" in told(caplog)


# -------------------------------------------------------------------------------- teachers of others

TEACHERS = {
    "AT's": lambda t, s: {"model": {**prefixed(t, "modelTeacher."), **prefixed(s, "modelStudent.")}},
    "AT's, distributed": lambda t, s: {
        "model": {**prefixed(t, "modelTeacher.module."), **prefixed(s, "module.modelStudent.", "module.")}
    },
    "wrapped": lambda t, s: {"model": {**prefixed(t, "module.teacher."), **prefixed(s, "module.student.")}},
    "beside the model": lambda t, s: {"model": s, "ema": prefixed(t, "model.")},
}  # fmt: skip


def prefixed(state, prefix, strip=""):
    return {prefix.removeprefix(strip) + k: v for k, v in state.items()}


@pytest.mark.parametrize("prefer", ["teacher", "student"])
@pytest.mark.parametrize("which", TEACHERS)
def test_teacher_and_student_of_another_framework_are_told_apart(tmp_path, caplog, which, prefer):
    teacher, student = disturb(build(), 1), disturb(build(), 2)
    torch.save(TEACHERS[which](teacher.state_dict(), student.state_dict()), tmp_path / "x.pth")
    plain, mic = build(), build("MIC")
    MICCheckpointer(plain, weights_from=prefer).load(str(tmp_path / "x.pth"))
    assert equal(plain, teacher if prefer == "teacher" else student)
    assert f"its {prefer} is taken" in told(caplog)
    mic.steps = 5
    MICCheckpointer(mic).load(str(tmp_path / "x.pth"))
    assert equal(mic.teacher, teacher) and equal(mic.student, student) and mic.steps == 0


def test_a_file_with_a_teacher_alone_fills_both(tmp_path):
    teacher = disturb(build(), 1)
    torch.save(prefixed(teacher.state_dict(), "modelTeacher."), tmp_path / "x.pth")
    mic = build("MIC")
    MICCheckpointer(mic, weights_from="student").load(str(tmp_path / "x.pth"))
    assert equal(mic.teacher, teacher) and equal(mic.student, teacher)


@pytest.mark.parametrize("prefer", ["teacher", "student"])
def test_a_training_starts_from_the_part_that_is_chosen(tmp_path, prefer):
    write_two_domains(tmp_path)
    keys = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"]}
    with forget_registered_sets():
        cfg = load(tmp_path, tiny_config(tmp_path, tmp_path / "out", **keys, MODEL__MIC__WEIGHTS_FROM=prefer))
        model = MICTrainer.build_model(cfg)
        disturb(model.student, 1), disturb(model.teacher, 2)
        MICCheckpointer(model, str(tmp_path)).save("mic")
        cfg.MODEL.WEIGHTS = str(tmp_path / "mic.pth")
        trainer = MICTrainer(cfg)
        trainer.resume_or_load(resume=False)
    ours = trainer.checkpointer.model
    assert equal(ours.student, getattr(model, prefer)) and equal(ours.teacher, getattr(model, prefer))


def test_safetensors_are_read(tmp_path):
    plain = disturb(build(), 1)
    save_file(plain.state_dict(), tmp_path / "x.safetensors")
    mic = build("MIC")
    MICCheckpointer(mic, complete=True).load(str(tmp_path / "x.safetensors"))
    assert equal(mic.teacher, plain) and equal(mic.student, plain)


# --------------------------------------------------------------------------------- shapes that differ

BOXES = ["roi_heads.box_predictor."]
MASKS = {"MODEL__MASK_ON": True, "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead",
         "MODEL__ROI_MASK_HEAD__NUM_CONV": 1, "MODEL__ROI_MASK_HEAD__CONV_DIM": 8}  # fmt: skip
PIXELS = {"MODEL__META_ARCHITECTURE": "BoxPanopticFPN", "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["p2", "p3"],
          "MODEL__SEM_SEG_HEAD__CONVS_DIM": 32, "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5}  # fmt: skip
CLASSES = {
    "boxes": ({}, {"MODEL__ROI_HEADS__NUM_CLASSES": 7}, BOXES),
    "boxes and masks": (MASKS, {"MODEL__ROI_HEADS__NUM_CLASSES": 7}, [*BOXES, "roi_heads.mask_head.predictor."]),
    "pixels": (PIXELS, {"MODEL__SEM_SEG_HEAD__NUM_CLASSES": 19}, ["sem_seg_head.predictor."]),
}


@pytest.mark.parametrize("name", CLASSES)
def test_other_classes_start_the_predictor_anew_and_nothing_else(tmp_path, caplog, name):
    keys, changed, predictors = CLASSES[name]
    keys = {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN", **keys}
    old = disturb(MICTrainer.build_model(tiny_cfg(**{**keys, **changed})), 1)
    torch.save({"model": old.state_dict()}, tmp_path / "old.pth")
    new = MICTrainer.build_model(tiny_cfg(**keys))
    before = copy.deepcopy(new)
    MICCheckpointer(new).load(str(tmp_path / "old.pth"))
    found, theirs, fresh = (m.state_dict() for m in (new, old, before))
    anew = [k for k in found if k.startswith(tuple(predictors))]
    assert len(anew) >= 2 and all(torch.equal(found[k], fresh[k]) for k in anew)
    assert all(torch.equal(found[k], theirs[k]) for k in found if k not in anew)
    for prefix in predictors:
        assert f"the weights of {prefix[:-1]} are drawn at random" in told(caplog)
    table = [line.split() for line in told(caplog).splitlines()]
    for k in anew:
        assert any(row and row[0] == k and str(found[k].shape[0]) in "".join(row[1:]) for row in table), k
    with pytest.raises(CheckpointError, match="number of classes.*NUM_CLASSES"):  # a prediction would be random
        MICCheckpointer(new, complete=True).load(str(tmp_path / "old.pth"))


def test_other_shapes_stop_the_run_unless_what_fits_is_asked_for(tmp_path, caplog):
    old = disturb(build(MODEL__ROI_BOX_HEAD__FC_DIM=24), 1)
    torch.save({"model": old.state_dict()}, tmp_path / "old.pth")
    new = build()
    before = copy.deepcopy(new)
    shapes = r"box_head\.fc1\.weight \(\(24, 256\), here \(16, 256\)\)"
    with pytest.raises(CheckpointError, match=f"{shapes}.*MIN_MATCHED_KEYS"):
        MICCheckpointer(new).load(str(tmp_path / "old.pth"))
    assert equal(new, before)
    rows = [line.split("  ") for line in told(caplog).splitlines()]
    shown = {row[0]: [x.strip() for x in row[1:] if x.strip()] for row in rows}
    assert shown["roi_heads.box_head.fc1.weight"] == ["(24, 256)", "(16, 256)"]
    assert shown["roi_heads.box_head.fc2.bias"] == ["(24,)", "(16,)"]
    MICCheckpointer(new, min_matched_keys=0).load(str(tmp_path / "old.pth"))
    assert equal(new.backbone, old.backbone) and equal(new.roi_heads.box_head, before.roi_heads.box_head)


def test_a_model_that_is_to_predict_must_be_filled(tmp_path):
    plain = disturb(build(), 1)
    state = {k: v for k, v in plain.state_dict().items() if not k.startswith("proposal_generator.")}
    torch.save({"model": state}, tmp_path / "x.pth")
    MICCheckpointer(build()).load(str(tmp_path / "x.pth"))  # a warm start
    with pytest.raises(CheckpointError, match=r"lacks 6 of .*proposal_generator"):
        MICCheckpointer(build(), complete=True).load(str(tmp_path / "x.pth"))
