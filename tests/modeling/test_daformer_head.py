"""DAFormer's decoder: shapes, parameters against the published architecture, and each part against the formula."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

from helpers.models import random_image, source_input, target_input, tiny_cfg
from mic_det import MIC
from mic_det.modeling.daformer_head import DAFormerHead
from mic_det.modeling.mit import MixTransformer

SMALL = {"res2": ShapeSpec(channels=6, stride=4), "res3": ShapeSpec(channels=8, stride=8)}
CFG = {
    "MODEL__MIC__STUDENT": "SemanticSegmentor", "MODEL__BACKBONE__NAME": "build_resnet_backbone",
    "MODEL__SEM_SEG_HEAD__NAME": "DAFormerHead", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5,
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3", "res4", "res5"], "MODEL__SEM_SEG_HEAD__CONVS_DIM": 8,
    "MODEL__SEM_SEG_HEAD__NORM": "BN", "MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 255,
    "MODEL__SEM_SEG_HEAD__LOSS_WEIGHT": 1.0, "MODEL__MIC__SEM_SEG__MIX_WEIGHT": 1.0,
}  # fmt: skip


def count(model):
    return sum(p.numel() for p in model.parameters())


def features(sizes=((8, 12), (4, 6))):
    return {"res2": torch.randn(2, 6, *sizes[0]), "res3": torch.randn(2, 8, *sizes[1])}


def test_encoder_and_decoder_have_the_published_number_of_parameters():
    """The decoder's is the sum over the layers of the authors' config; the encoder's is that of other libraries."""
    with torch.device("meta"):
        encoder = MixTransformer("b5")
        decoder = DAFormerHead(encoder.output_shape(), num_classes=19)
    width = 256
    embeddings = (64 + 128 + 320 + 512) * width + 4 * width
    one, norms = 1024 * width + 2 * width, 2 * 1024
    separable = 1024 * 9 + norms + one
    published = embeddings + one + 3 * separable + 4 * width * width * 9 + 2 * width + width * 19 + 19
    assert published == 3_712_275 and count(decoder) == published
    assert count(encoder) + count(decoder) == 81_443_008 + published


def test_logits_have_the_finest_stride_and_other_maps_are_resized():
    head = DAFormerHead(SMALL, num_classes=5, conv_dims=16).eval()
    with torch.no_grad():
        assert head.layers(features()).shape == (2, 5, 8, 12)
        assert head.layers(features(((9, 13), (5, 7)))).shape == (2, 5, 9, 13)
        assert head(features())[0].shape == (2, 5, 32, 48)


def test_the_fusion_is_that_of_the_paper():
    """Each branch written out, BatchNorm with the statistics of a trained model."""
    head = DAFormerHead(SMALL, num_classes=3, conv_dims=4, dilations=(2, 3)).eval()
    for m in head.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            for t in (m.running_mean, m.bias):
                torch.nn.init.uniform_(t, -0.2, 0.2)
            for t in (m.running_var, m.weight):
                torch.nn.init.uniform_(t, 0.5, 1.5)

    def conv(layer, x, **keys):
        norm = layer.norm
        x = F.conv2d(x, layer.weight, **keys)
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()

    x = features()
    with torch.no_grad():
        first, second = (F.conv2d(x[k], e.weight, e.bias) for k, e in zip(("res2", "res3"), head.embeddings))
        y = torch.cat([first, F.interpolate(second, (8, 12), mode="bilinear", align_corners=False)], dim=1)
        one, *separable = head.fusion.branches
        parts = [conv(one, y)]
        for branch, d in zip(separable, (2, 3)):
            parts.append(conv(branch.pointwise, conv(branch.depthwise, y, padding=d, dilation=d, groups=8)))
        fused = conv(head.fusion.bottleneck, torch.cat(parts, dim=1), padding=1)
        expected = F.conv2d(fused, head.predictor.weight, head.predictor.bias)
        torch.testing.assert_close(head.layers(x), expected, rtol=1e-4, atol=1e-6)


def test_whole_channels_are_left_out_in_training():
    head = DAFormerHead(SMALL, num_classes=3, conv_dims=64, norm="", dropout=0.5).train()
    seen = []
    head.predictor.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    head.layers({k: v + 3 for k, v in features().items()})
    left_out = (seen[0] == 0).flatten(2).all(dim=2).float().mean()
    assert 0.3 < left_out < 0.9
    head.eval().layers(features())
    assert len(seen) == 2


def test_a_finest_map_of_another_stride_is_refused():
    with pytest.raises(ValueError, match="feature map of stride 4 .*IN_FEATURES"):
        DAFormerHead({"res3": SMALL["res3"]}, num_classes=3)


def test_mic_trains_it_with_all_terms():
    model = build_model(tiny_cfg(**CFG)).train()
    labels = torch.randint(0, 5, (64, 96))
    losses = model([{**source_input(), "sem_seg": labels}, target_input()])
    assert set(losses) == {"source/loss_sem_seg", "masked/loss_sem_seg", "mix/loss_sem_seg"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.student.sem_seg_head.parameters())
    model.eval()
    (found,) = model([{"image": random_image((60, 90))}])
    assert found["sem_seg"].shape == (5, 60, 90)


def test_an_unsuitable_head_is_refused_with_what_it_lacks():
    model = build_model(tiny_cfg(**CFG, MODEL__META_ARCHITECTURE="SemanticSegmentor"))
    head = model.sem_seg_head
    model.sem_seg_head = torch.nn.Sequential(head.predictor)
    with pytest.raises(TypeError, match="Sequential, which has no layers: .*DAFormerHead"):
        MIC(student=model)
