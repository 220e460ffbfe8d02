"""HRDA: fused logits by hand, windows against brute force, the loss against its formula, and MIC around it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_model
from torch import nn

from helpers.models import random_image, source_input, target_input, tiny_cfg
from mic_det.config import validate_mic_config
from mic_det.errors import ConfigError
from mic_det.modeling.hrda import BOXES, HRDABackbone, HRDAHead, fuse
from mic_det.modeling.pixel_labels import PixelLabels, pixel_loss
from mic_det.modeling.windows import cut, place, window_boxes

pytestmark = pytest.mark.slow

HRDA = {
    "MODEL__MIC__STUDENT": "SemanticSegmentor", "MODEL__BACKBONE__NAME": "build_hrda_backbone",
    "MODEL__HRDA__BACKBONE": "build_resnet_backbone", "MODEL__HRDA__DETAIL_SIZE": (64, 64),
    "MODEL__SEM_SEG_HEAD__NAME": "HRDAHead", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5,
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL__SEM_SEG_HEAD__CONVS_DIM": 32, "MODEL__SEM_SEG_HEAD__NORM": "GN", "MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 255,
    "MODEL__SEM_SEG_HEAD__LOSS_WEIGHT": 1.0, "MODEL__MIC__SEM_SEG__MIX_WEIGHT": 1.0,
    "MODEL__DAFORMER_HEAD__DROPOUT": 0.0,
}  # fmt: skip
FPN = {"MODEL__HRDA__BACKBONE": "build_resnet_fpn_backbone", "MODEL__HRDA__HEAD": "SemSegFPNHead",
       "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["p2", "p3", "p4", "p5"]}  # fmt: skip


def build(**keys):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**{**HRDA, **keys}))


def batch(size=(128, 192), sources=2, targets=2):
    def labelled(seed):
        labels = torch.randint(0, 5, size, generator=torch.Generator().manual_seed(seed))
        return {**source_input(seed, size), "sem_seg": labels}

    return [labelled(i) for i in range(sources)] + [target_input(9 + i, size) for i in range(targets)]


# ------------------------------------------------------------------------------------------------ fusion by hand


def test_fused_logits_of_a_four_by_four_map():
    """The window is the upper left quarter, so that of the attention the first cell alone counts.

    (1 - a) y_c = [[0.5, 2], [3, 4]] and a = [[0.5, 0], [0, 0]], both up-sampled with weights 1, 3/4, 1/4, 0.
    """
    context, attention = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.5, 1.0], [0.0, 0.25]])
    detail = torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    fused = fuse(
        context[None, None], detail[None, None, None], attention[None, None], torch.tensor([[[0, 0, 2, 2]]]), 2
    )
    expected = [
        [0.5 + 0.5 * 10, 0.875 + 0.375 * 20, 1.625, 2.0],
        [1.125 + 0.375 * 30, 1.46875 + 0.28125 * 40, 2.15625, 2.5],
        [2.375, 2.65625, 3.21875, 3.5],
        [3.0, 3.25, 3.75, 4.0],
    ]
    assert torch.equal(fused[0, 0], torch.tensor(expected))


def test_each_class_and_each_image_has_its_own_attention_and_window():
    context, detail = torch.zeros(2, 2, 2, 2), torch.ones(2, 1, 2, 2, 2)
    attention = torch.ones(2, 2, 2, 2)
    attention[:, 1] = 0
    boxes = torch.tensor([[[0, 0, 2, 2]], [[2, 2, 4, 4]]])
    fused = fuse(context, detail, attention, boxes, 2)
    assert fused[0, 0, 0, 0] == 1 and fused[1, 0, 3, 3] == 1
    assert (fused[0, 0, 2:] == 0).all() and (fused[1, 0, :2] == 0).all() and (fused[:, 1] == 0).all()
    assert torch.equal(fuse(context, detail, attention[:, :1], boxes, 2)[:, 1], fused[:, 0]), "or one for all classes"


@pytest.mark.parametrize("keys", [{}, FPN], ids=["DAFormerHead", "SemSegFPNHead"])
@pytest.mark.parametrize("training", [True, False])
def test_without_attention_it_is_the_head_of_one_scale_on_the_context(keys, training):
    model = build(MODEL__META_ARCHITECTURE="SemanticSegmentor", **keys).train(training)
    head, images = model.sem_seg_head, torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        head.scale_attention.predictor.weight.zero_()
        head.scale_attention.predictor.bias.fill_(-1e9)
        features = model.backbone(images)
        small = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
        expected = head.head.layers(model.backbone.bottom_up(small))
        expected = F.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
        torch.testing.assert_close(head.layers(features), expected, rtol=1e-4, atol=1e-5)
        head.scale_attention.predictor.bias.fill_(1e9)
        assert not torch.allclose(head.layers(features), expected, atol=1e-3)


# ------------------------------------------------------------------------------------------------ windows


@pytest.mark.parametrize("size, window, stride", [
    ((1024, 1024), (512, 512), (256, 256)), ((1024, 2048), (1024, 1024), (512, 512)), ((70, 33), (32, 40), (10, 7)),
    ((64, 64), (64, 64), (32, 32)), ((10, 100), (20, 30), (20, 30)),
])  # fmt: skip
def test_windows_cover_a_map_and_none_is_beyond_it(size, window, stride):
    boxes = window_boxes(size, window, stride)
    seen = torch.zeros(size)
    for y1, x1, y2, x2 in boxes:
        assert 0 <= y1 and y2 <= size[0] and 0 <= x1 and x2 <= size[1]
        assert (y2 - y1, x2 - x1) == (min(window[0], size[0]), min(window[1], size[1]))
        seen[y1:y2, x1:x2] += 1
    assert (seen >= 1).all() and len(set(boxes)) == len(boxes)
    tops = sorted({b[0] for b in boxes})
    assert all(b - a == stride[0] for a, b in zip(tops[:-2], tops[1:-1])), "in steps of the stride but for the last"


def test_the_published_windows():
    tops = [0, 256, 512]
    assert window_boxes((1024, 1024), (512, 512), (256, 256)) == [(y, x, y + 512, x + 512) for y in tops for x in tops]


def test_what_is_cut_and_placed_again_is_the_mean_at_each_place():
    maps = torch.randn(2, 3, 10, 14)
    boxes = torch.tensor([window_boxes((10, 14), (6, 6), (3, 3))] * 2)
    parts = cut(maps, boxes)
    torch.testing.assert_close(place(parts, boxes, (10, 14)), maps)
    noisy, total, times = parts + torch.randn_like(parts), torch.zeros(2, 3, 10, 14), torch.zeros(10, 14)
    for w, (y1, x1, y2, x2) in enumerate(boxes[0].tolist()):
        total[:, :, y1:y2, x1:x2] += noisy[:, w]
        times[y1:y2, x1:x2] += 1
    torch.testing.assert_close(place(noisy, boxes, (10, 14)), total / times)
    assert (place(parts[:, :1], boxes[:, :1], (10, 14))[:, :, 6:] == 0).all()


def test_random_windows_are_aligned_inside_and_reach_every_place():
    backbone = HRDABackbone(nn.Identity(), 2, (64, 64), alignment=8).train()
    boxes = backbone.boxes(3000, (128, 96))[:, 0]
    assert (boxes % 8 == 0).all() and (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] - boxes[:, :2] == 64).all()
    assert set(boxes[:, 0].tolist()) == set(range(0, 65, 8)) and set(boxes[:, 1].tolist()) == set(range(0, 33, 8))
    torch.manual_seed(3)
    together = backbone.boxes(4, (128, 96))
    torch.manual_seed(3)
    assert torch.equal(torch.cat([backbone.boxes(1, (128, 96)) for _ in range(4)]), together)
    assert backbone.eval().boxes(2, (128, 96)).shape == (2, 6, 4)
    backbone.overlap = False
    assert backbone.boxes(2, (128, 128))[1].tolist() == [[y, x, y + 64, x + 64] for y in (0, 64) for x in (0, 64)]


class Patches(Backbone):
    """Features of each 4 x 4 patch alone, so that a window sees there what the whole image does."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, stride=4)

    def forward(self, x):
        return {"res2": self.stem(x)}

    def output_shape(self):
        return {"res2": ShapeSpec(channels=6, stride=4)}


def test_overlapping_windows_are_the_whole_image_for_a_head_of_one_by_one():
    cfg = tiny_cfg(**{**HRDA, "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2"], "MODEL__DAFORMER_HEAD__DILATIONS": (),
                      "MODEL__SEM_SEG_HEAD__NORM": ""})  # fmt: skip
    backbone = HRDABackbone(Patches(), 2, (64, 64)).eval()
    head, images = HRDAHead(cfg, backbone.output_shape()).eval(), torch.randn(2, 3, 128, 192)
    assert not any(m.kernel_size != (1, 1) for m in head.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        features = backbone(images)
        fused, context, detail = head.predict(features)
        assert detail.shape == (2, 15, 5, 16, 16) and features[BOXES].shape == (2, 15, 4)
        whole = head.head.layers(backbone.bottom_up(images))
        torch.testing.assert_close(place(detail, features[BOXES] // 4, (32, 48)), whole, rtol=1e-4, atol=1e-5)
        attention = head.scale_attention.layers(features).sigmoid()
        up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        expected = up((1 - attention) * context) + up(attention) * whole
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ the loss


def cross_entropy(logits, labels, weights):
    size = labels.shape[-2:]
    logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    loss = F.cross_entropy(logits, labels, reduction="none", ignore_index=255) * weights
    return loss.sum() / (labels != 255).sum()


@pytest.mark.parametrize("size, detail_size, weight", [
    ((128, 192), (64, 64), 0.1), ((128, 192), (64, 64), 0.0), ((128, 128), (128, 128), 0.1)
])  # fmt: skip
def test_the_loss_is_that_of_the_paper(size, detail_size, weight):
    keys = {"MODEL__HRDA__DETAIL_SIZE": detail_size, "MODEL__HRDA__DETAIL_WEIGHT": weight}
    model = build(MODEL__META_ARCHITECTURE="SemanticSegmentor", MODEL__SEM_SEG_HEAD__LOSS_WEIGHT=2.0,
                  **{k: v for k, v in keys.items()}).train()  # fmt: skip
    head, features = model.sem_seg_head, model.backbone(torch.randn(2, 3, *size))
    labels, weights = torch.randint(0, 5, (2, *size)), torch.rand(2, *size)
    labels[:, :20] = 255
    found = pixel_loss(head, features, [PixelLabels(x, w) for x, w in zip(labels, weights)])
    fused, context, detail = head.predict(features)
    parts = [[x[i, y1:y2, x1:x2] for i, ((y1, x1, y2, x2),) in enumerate(features[BOXES].tolist())]
             for x in (labels, weights)]  # fmt: skip
    of_detail = cross_entropy(detail[:, 0], *map(torch.stack, parts))
    expected = (1 - weight) * cross_entropy(fused, labels, weights) + weight * of_detail
    if size == detail_size:  # nothing but the fused logits would train the context
        expected = 0.8 * cross_entropy(fused, labels, weights)
        expected = expected + 0.1 * of_detail + 0.1 * cross_entropy(context, labels, weights)
    torch.testing.assert_close(found, 2 * expected)
    assert pixel_loss(head, features, [PixelLabels(x * 0 + 255, w) for x, w in zip(labels, weights)]) == 0


def test_a_plain_model_is_trained_by_the_same_loss():
    model = build(MODEL__META_ARCHITECTURE="SemanticSegmentor").train()
    inputs = batch(targets=0)
    torch.manual_seed(5)
    found = model(inputs)
    torch.manual_seed(5)
    images = torch.stack([(x["image"] - model.pixel_mean) / model.pixel_std for x in inputs])
    labels = [PixelLabels.of_truth(x["sem_seg"]) for x in inputs]
    expected = model.sem_seg_head.pixel_loss(model.backbone(images), labels)
    torch.testing.assert_close(found, {"loss_sem_seg": expected})


# ------------------------------------------------------------------------------------------------ inside of MIC


@pytest.mark.parametrize("keys", [{}, FPN, {"MODEL__HRDA__ATTENTION_PER_CLASS": False}])
def test_mic_trains_both_scales_with_all_terms_and_predicts(keys):
    model = build(**keys).train()
    losses = model(batch())
    assert set(losses) == {"source/loss_sem_seg", "masked/loss_sem_seg", "mix/loss_sem_seg"}
    sum(losses.values()).backward()
    assert [n for n, p in model.student.named_parameters() if p.requires_grad and p.grad is None] == []
    assert model.student.sem_seg_head.scale_attention.predictor.out_channels == (1 if "PER_CLASS" in str(keys) else 5)
    model.eval()
    (found,) = model([{"image": random_image((100, 150))}])
    assert found["sem_seg"].shape == (5, 100, 150)


def test_in_mixed_precision_losses_are_near_those_of_float32():
    keys = {"MODEL__MIC__STRONG_AUG__JITTER_PROB": 0.0, "MODEL__MIC__STRONG_AUG__BLUR_PROB": 0.0}
    model, losses = build(**keys).train(), []
    for enabled in (False, True):
        torch.manual_seed(6)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(model(batch()))
    assert losses[1]["source/loss_sem_seg"].dtype == torch.float32
    torch.testing.assert_close(losses[1]["source/loss_sem_seg"], losses[0]["source/loss_sem_seg"], rtol=0.03, atol=0.0)
    sum(losses[1].values()).backward()


def test_the_mask_is_put_on_the_image_before_both_views_are_cut():
    model, seen = build(MODEL__MIC__SEM_SEG__WEIGHT=1.0, MODEL__MIC__SEM_SEG__MIX_WEIGHT=0.0).train(), []
    backbone = model.student.backbone
    backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    backbone.bottom_up.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    backbone.register_forward_hook(lambda module, args, output: seen.append(output[BOXES]))
    model(batch(sources=1, targets=1))
    images, context, detail, boxes = seen
    assert (images[1] == 0).all(dim=0).float().mean() > 0.4, "the second is masked"
    torch.testing.assert_close(context, F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False))
    for image, part, ((y1, x1, y2, x2),) in zip(images, detail, boxes.tolist()):
        assert torch.equal(part, image[:, y1:y2, x1:x2])


def test_pseudo_labels_are_those_of_the_fused_windows():
    model = build(MODEL__MIC__SEM_SEG__PIXEL_THRESHOLD=0.21).train()
    inputs = batch()[2:]
    (first, second) = model.pseudo_labels(inputs)["pixels"].pixels
    with torch.no_grad():
        images = torch.stack([(x["image"] - model.teacher.pixel_mean) / model.teacher.pixel_std for x in inputs])
        features = model.teacher.backbone(images)
        assert features[BOXES].shape[1] == 15
        logits = F.interpolate(
            model.teacher.sem_seg_head.layers(features), scale_factor=4, mode="bilinear", align_corners=False
        )
    assert torch.equal(torch.stack([first.labels, second.labels]), logits.argmax(dim=1))


def test_parts_one_after_the_other_have_the_gradient_of_one_pass():
    """``SEQUENTIAL_BACKWARD``: also the windows are the same, as each image draws its own."""
    together = build(MODEL__MIC__STRONG_AUG__JITTER_PROB=0.0, MODEL__MIC__STRONG_AUG__BLUR_PROB=0.0).train()
    apart = copy.deepcopy(together)
    torch.manual_seed(7)
    losses = together(batch())
    sum(losses.values()).backward()
    torch.manual_seed(7)
    parts = []
    for part in apart.losses_in_parts(batch()):
        sum(part.values()).backward()
        parts.append(part)
    assert len(parts) == 3
    for name, p in together.student.named_parameters():
        if p.requires_grad:
            q = apart.student.get_parameter(name)
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("keys, error", [
    ({"MODEL__SEM_SEG_HEAD__NAME": "DAFormerHead"}, "build_hrda_backbone and HRDAHead belong together"),
    ({"MODEL__BACKBONE__NAME": "build_resnet_backbone"}, "build_hrda_backbone and HRDAHead belong together"),
    ({"MODEL__MIC__STUDENT": "BoxPanopticFPN"}, "not with BoxPanopticFPN, which has boxes"),
    ({"MODEL__HRDA__HEAD": "HRDAHead"}, "are the parts of one scale"),
    ({"MODEL__HRDA__DETAIL_SIZE": (500, 512)}, "MODEL.HRDA.DETAIL_SIZE is .500, 512.: use two whole numbers"),
])  # fmt: skip
def test_what_does_not_belong_together_is_refused(keys, error):
    with pytest.raises(ConfigError, match=error):
        validate_mic_config(tiny_cfg(**{**HRDA, **keys}))
