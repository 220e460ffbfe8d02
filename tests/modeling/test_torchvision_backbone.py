"""Feature pyramids over torchvision's classifiers."""

import pytest
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torchvision.models.feature_extraction import create_feature_extractor

from helpers.models import tiny_cfg
from mic_det.errors import ConfigError
from mic_det.modeling.torchvision_backbone import TorchvisionStages

# torchvision's own names of the last module of strides 4, 8, 16 and 32
NODES = {
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "mobilenet_v2": ("features.3", "features.6", "features.13", "features.18"),
    "convnext_tiny": ("features.1", "features.3", "features.5", "features.7"),
    "swin_t": ("features.1", "features.3", "features.5", "features.7"),
}


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_outputs_equal_torchvisions_own(name, norm):
    backbone = TorchvisionStages(name, norm).eval()
    reference = torchvision.models.get_model(name, weights=None).eval()
    for module in reference.modules():  # statistics as of a trained model
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    wanted = backbone.body.state_dict().keys()
    backbone.body.load_state_dict({k: v for k, v in reference.state_dict().items() if k in wanted})
    extractor = create_feature_extractor(reference, dict(zip(NODES[name], ("res2", "res3", "res4", "res5"))))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = backbone(x), extractor(x)
    assert ours.keys() == theirs.keys()
    if name == "swin_t":  # torchvision's maps have the channels last
        theirs = {k: x.permute(0, 3, 1, 2) for k, x in theirs.items()}
    for key, shape in backbone.output_shape().items():
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5)
        assert ours[key].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_frozen_norms_have_no_parameters_to_train():
    frozen = TorchvisionStages("mobilenet_v2", "FrozenBN")
    assert any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in frozen.modules())


@pytest.mark.parametrize("freeze_at, frozen", [(0, ()), (1, ("conv1", "bn1")), (2, ("conv1", "bn1", "layer1")),
                                               (3, ("conv1", "bn1", "layer1", "layer2"))])  # fmt: skip
def test_the_first_stages_are_frozen(freeze_at, frozen):
    backbone = TorchvisionStages("resnet18", "BN", freeze_at)
    for name, p in backbone.body.named_parameters():
        assert p.requires_grad == (name.split(".")[0] not in frozen), name


@pytest.mark.parametrize("name, freeze_at, frozen", [
    ("mobilenet_v2", 2, ["features.0", "features.1", "features.2", "features.3"]),
    ("resnet18", 3, ["conv1", "bn1", "layer1", "layer2"]),
    ("resnet18", 0, []),
])  # fmt: skip
def test_frozen_stages_keep_their_statistics_where_the_others_train_theirs(name, freeze_at, frozen):
    backbone = TorchvisionStages(name, "BN", freeze_at).train()
    before = {k: v.clone() for k, v in backbone.body.state_dict().items()}
    assert before.keys() == TorchvisionStages(name, "BN").body.state_dict().keys(), "torchvision's names stay"
    backbone(torch.randn(2, 3, 64, 64) * 3 + 1)
    prefixes = tuple(f"{x}." for x in frozen)
    statistics = [k for k in before if k.endswith(("running_mean", "running_var"))]
    moved = [k for k in statistics if not torch.equal(before[k], backbone.body.state_dict()[k])]
    assert moved == [k for k in statistics if not k.startswith(prefixes or "?")]
    assert len(moved) < len(statistics) or not frozen


def test_swin_takes_images_of_any_size_and_its_maps_can_be_normalised():
    backbone = TorchvisionStages("swin_t", freeze_at=2, output_norm="LN").eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 128))
    assert [x.shape[1:] for x in maps.values()] == [(96, 16, 32), (192, 8, 16), (384, 4, 8), (768, 2, 4)]
    for x in maps.values():
        torch.testing.assert_close(x.mean(dim=1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)
    frozen = {k.split(".")[1] for k, p in backbone.body.named_parameters() if not p.requires_grad}
    assert frozen == {"0", "1"}  # the patch embedding and the blocks of res2


@pytest.mark.parametrize("name", ["resnet_of_nobody", "vit_b_16"])
def test_unknown_and_unsuitable_models_are_refused(name):
    with pytest.raises(ConfigError, match=f"MODEL.TORCHVISION.NAME is '{name}'"):
        TorchvisionStages(name)


def test_a_detector_is_built_and_trained_on_it():
    cfg = tiny_cfg(MODEL__BACKBONE__NAME="build_torchvision_fpn_backbone", MODEL__TORCHVISION__NAME="mobilenet_v2",
                   MODEL__META_ARCHITECTURE="GeneralizedRCNN", MODEL__BACKBONE__FREEZE_AT=2)  # fmt: skip
    model = build_model(cfg).eval()
    assert set(model.backbone.output_shape()) == {"p2", "p3", "p4", "p5", "p6"}
    model([{"image": torch.zeros(3, 50, 70, dtype=torch.uint8)}])
