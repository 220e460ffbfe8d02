"""Feature pyramids over timm's classifiers."""

import sys

import pytest
import torch
import torchvision
from detectron2.modeling import build_model

from helpers.models import random_image, tiny_cfg
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.checkpoint.libraries import fetch
from mic_det.errors import CheckpointError, ConfigError
from mic_det.modeling.timm_backbone import TimmStages

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")]


def test_without_timm_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # Python's own way to make an import fail
    with pytest.raises(ConfigError, match=r"MODEL.TIMM.NAME 'convnext_tiny'.*pip install 'mic_det\[timm\]'"):
        build_model(tiny_cfg(MODEL__BACKBONE__NAME="build_timm_fpn_backbone"))
    with pytest.raises(ConfigError, match=r"build_vitdet_backbone needs the package timm"):
        build_model(tiny_cfg(MODEL__BACKBONE__NAME="build_vitdet_backbone"))


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["convnext_atto", "efficientnet_b0", "resnet18"])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_outputs_equal_those_of_timms_feature_extractor(timm, name, norm):
    backbone = TimmStages(name, norm).eval()
    # timm's older mechanism, which cuts the model into a flat list of modules
    reference = timm.create_model(name, features_only=True, pretrained=False).eval()
    for module in reference.modules():  # statistics as of a trained model
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    theirs = {k.replace("stages_", "stages.").replace("stem_", "stem."): v for k, v in reference.state_dict().items()}
    missing, _ = backbone.body.load_state_dict(theirs, strict=False)
    assert not missing
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours, expected = backbone(x), reference(x)[-4:]
    for (key, shape), y in zip(backbone.output_shape().items(), expected):
        torch.testing.assert_close(ours[key], y, rtol=1e-4, atol=1e-5)
        assert ours[key].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_swin_at_another_size_computes_what_torchvisions_does(timm):
    """At 448 pixels, whose windows of the last stage are shifted, too: at 224, timm's own settings shift none."""
    ours, theirs = TimmStages("swin_tiny_patch4_window7_224").eval(), torchvision.models.swin_t().eval()
    state = {}
    for name, value in theirs.features.state_dict().items():
        stage, *rest = name.split(".")
        rest = ".".join(rest).replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
        if stage == "0":
            part = {"0": "proj", "2": "norm"}[rest[0]]
            state[f"patch_embed.{part}{rest[1:]}"] = value
        elif int(stage) % 2:
            state[f"layers.{int(stage) // 2}.blocks.{rest}"] = value
        else:
            state[f"layers.{int(stage) // 2}.downsample.{rest}"] = value
    own = ours.body.state_dict()
    ours.body.load_state_dict({k: v for k, v in state.items() if "relative_position_index" not in k}, strict=True)
    assert all("relative_position_index" not in k for k in own)
    x = torch.randn(1, 3, 448, 448)
    with torch.no_grad():
        maps = ours(x)
        for i, step in enumerate(theirs.features):
            x = step(x)
            if i % 2:
                torch.testing.assert_close(maps[f"res{i // 2 + 2}"], x.permute(0, 3, 1, 2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name, stages", [
    ("convnext_atto", ["stem.", "stages.0.", "stages.1.", "stages.2.", "stages.3."]),
    ("resnet18", ["conv1. bn1.", "layer1.", "layer2.", "layer3.", "layer4."]),
])  # fmt: skip
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 4, 5])
def test_the_first_stages_are_frozen_with_their_statistics(timm, name, stages, freeze_at):
    backbone = TimmStages(name, "BN", freeze_at).train()
    frozen = tuple(" ".join(stages[:freeze_at]).split()) or ("?",)
    for key, p in backbone.body.named_parameters():
        assert p.requires_grad == (not key.startswith(frozen)), key
    before = {k: v.clone() for k, v in backbone.body.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64) * 3 + 1)
    statistics = [k for k in before if k.endswith(("running_mean", "running_var"))]
    moved = {k for k in statistics if not torch.equal(before[k], backbone.body.state_dict()[k])}
    assert moved == {k for k in statistics if not k.startswith(frozen)}
    assert bool(statistics) == (name == "resnet18")


@pytest.mark.parametrize("name, reason", [
    ("convnext_of_nobody", "has no such model. Similar names: convnext_atto"),
    ("vit_tiny_patch16_224", r"strides \[16\].*build_vitdet_backbone"),
    ("maxvit_pico_rw_256", "no maps for an image of 96 x 160 pixels .*divisible by window"),
])  # fmt: skip
def test_unknown_and_unsuitable_models_are_refused(timm, name, reason):
    with pytest.raises(ConfigError, match=f"MODEL.TIMM.NAME is '{name}'.*{reason}"):
        TimmStages(name)


def test_timms_file_fills_student_and_teacher_and_its_statistics_are_asked_for(timm, tmp_path, caplog):
    torch.manual_seed(3)
    classifier = timm.create_model("convnext_atto", pretrained=False)
    torch.save(classifier.state_dict(), tmp_path / "convnext_atto.pth")
    cfg = tiny_cfg(MODEL__BACKBONE__NAME="build_timm_fpn_backbone", MODEL__TIMM__NAME="convnext_atto",
                   MODEL__TIMM__OUTPUT_NORM="LN")  # fmt: skip
    model = build_model(cfg)
    caplog.set_level("INFO")
    MICCheckpointer(model).load(str(tmp_path / "convnext_atto.pth"))
    for part in (model.student, model.teacher):
        own = part.backbone.bottom_up.body.state_dict()
        assert len(own) == len(classifier.state_dict()) - 4 and all(
            torch.equal(v, classifier.state_dict()[k]) for k, v in own.items()
        )
    assert f"fills {len(own)} of the backbone's {len(own)} tensors" in caplog.text
    assert "is timm's" in caplog.text and "MODEL.PIXEL_STD [58.395, 57.12, 57.375]" in caplog.text
    with torch.no_grad():  # an output norm: each position has mean 0 and variance 1 over its channels
        maps = model.teacher.backbone.bottom_up(random_image((64, 96))[None] / 60.0)
    for x in maps.values():
        torch.testing.assert_close(x.mean(dim=1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var(dim=1, unbiased=False), torch.ones_like(x[:, 0]), atol=1e-2, rtol=0)


def test_weights_of_an_unknown_name_are_refused(timm):
    with pytest.raises(CheckpointError, match="MODEL.WEIGHTS is timm://convnext_of_nobody: timm has no such model"):
        fetch("timm://convnext_of_nobody")
