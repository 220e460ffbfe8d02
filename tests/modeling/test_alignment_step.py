"""L_T inside the step: what reaches the student from each part, whose regions are compared, keys and other students."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torchvision.ops import roi_align

from conftest import ALIGNMENT, ALL_BOXES, source_input, target_input, tiny_cfg
from mic_det.config import ALIGNED_REGIONS
from mic_det.modeling.regions import Regions

ALIGN = "MODEL__MIC__ALIGNMENT__"
REVERSAL = {"IMAGE": 0.3, "INSTANCE": 0.7, "AGREEMENT": -2.0}
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
SIZE = 256  # of images without padding: each map's positions are all inside


def model_of(**overrides):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**{**ALL_BOXES, **ALIGNMENT, **overrides})).train()


def plain_losses(alignment, features, boxes, x):
    """The three losses of one source and one target image, without any reversal, from the classifiers alone.

    ``boxes`` are one of level p2 in the first image and one of p3 in the second; ``x`` are their features.
    """
    maps = {name: classifier(features[name]) for name, classifier in alignment.image_classifiers.levels.items()}
    image = sum(F.softplus(m[0]).mean() + F.softplus(-m[1]).mean() for m in maps.values()) / 2 / len(maps)
    logits = torch.cat([alignment.instance_classifiers.levels[i](x[i]) for i in (0, 1)])
    instance = (F.softplus(logits[0]) + F.softplus(-logits[1])) / 2
    pooled = torch.stack(
        [roi_align(maps[name][i : i + 1].sigmoid(), [boxes[i]], 1, 1 / STRIDES[name], aligned=True).squeeze()
         for i, name in enumerate(("p2", "p3"))]
    )  # fmt: skip
    return {
        "loss_image": image,
        "loss_instance": instance,
        "loss_consistency": 0.1 * (pooled - logits.sigmoid()).abs().mean(),
    }


@pytest.mark.parametrize("schedule", ["constant", "dann"])
def test_what_reaches_the_student_is_each_parts_gradient_times_its_own_reversal_weights(schedule):
    keys = {ALIGN + f"{part}__GRL_WEIGHT": weight for part, weight in REVERSAL.items()}
    keys.update({ALIGN + "SCHEDULE": schedule, ALIGN + "RAMP_STEPS": 50, ALIGN + "INSTANCE__DROPOUT": 0.0})
    alignment = model_of(**keys).alignment
    ramp = 1.0 if schedule == "constant" else 2 / (1 + math.exp(-2)) - 1  # after 10 of 50 steps
    features = {k: torch.randn(2, 16, SIZE // s, SIZE // s).requires_grad_() for k, s in STRIDES.items()}
    x = torch.randn(2, 16, requires_grad=True)
    boxes = [torch.tensor([[8.0, 9.0, 43.0, 40.0]]), torch.tensor([[3.0, 0.0, 131.0, 130.0]])]
    plain = plain_losses(alignment, features, boxes, x)
    losses, _ = alignment([(SIZE, SIZE)] * 2, features, [False, True], Regions([Boxes(b) for b in boxes], x), step=10)
    # -0.3 and -0.7 of their own; the agreement's -2 of each, so twice 0.3 and twice 0.7 unreversed
    scales = {
        "loss_image": (-0.3, None), "loss_instance": (None, -0.7), "loss_consistency": (2 * 0.3, 2 * 0.7),
    }  # fmt: skip
    parameters = list(alignment.parameters())
    for name, (to_features, to_regions) in scales.items():
        torch.testing.assert_close(losses[name], plain[name])
        wanted, found = (
            torch.autograd.grad(v[name], [features["p2"], features["p3"], x, *parameters], retain_graph=True,
                                allow_unused=True)
            for v in (plain, losses)
        )  # fmt: skip
        for g, ours, scale in zip(wanted[:3], found[:3], (to_features, to_features, to_regions)):
            if scale is None:
                assert g is None and ours is None
            else:
                assert g.abs().sum() > 0
                torch.testing.assert_close(ours, g * scale * ramp)
        for g, ours in zip(wanted[3:], found[3:]):  # the classifiers themselves learn as usual
            if g is None:  # of another part, or of a level without a region
                assert ours is None or not ours.any()
            else:
                torch.testing.assert_close(ours, g)


@pytest.mark.parametrize("regions", ALIGNED_REGIONS)
def test_regions_are_of_the_images_that_the_classifiers_see_where_the_source_is_masked_too(regions):
    """Masked source views share the masked loss's pass, but are no business of the classifiers."""
    model = model_of(**{ALIGN + "INSTANCE__REGIONS": regions, "MODEL__MIC__MASK__DOMAINS": "both"})
    calls = []
    model.alignment.register_forward_pre_hook(lambda module, args: calls.append(args))
    # targets are narrower than sources: a region of the wrong image would stick out
    batch = [source_input(), source_input(1), target_input(2, (64, 48)), target_input(3, (64, 40))]
    losses = model(batch)
    assert {"masked/loss_cls", "align/loss_instance"} <= losses.keys()
    sizes, features, is_target, regions = calls[0][:4]
    assert list(sizes) == [(64, 96), (64, 96), (64, 48), (64, 40)] and is_target == [False, False, True, True]
    assert len(regions.boxes) == len(sizes) == len(features["p2"])
    assert sum(map(len, regions.boxes)) == len(regions.features)
    assert all(len(b) and b.tensor[:, 2].max() <= width for b, (_, width) in zip(regions.boxes, sizes))
    assert all(b.tensor[:, 2].max() > 48 for b in regions.boxes[:2])


@pytest.mark.parametrize("regions", ALIGNED_REGIONS)
@pytest.mark.parametrize("number", [3, 0])
def test_as_many_regions_of_an_image_as_the_config_says(number, regions):
    model = model_of(**{ALIGN + "INSTANCE__REGIONS_PER_IMAGE": number, ALIGN + "INSTANCE__REGIONS": regions})
    calls = []
    model.alignment.register_forward_pre_hook(lambda module, args: calls.append(args))
    model([source_input(), target_input(), target_input(2)])
    counts = [len(b) for b in calls[0][3].boxes]
    # 0: ROI_HEADS.BATCH_SIZE_PER_IMAGE, as L_S samples, whose regions the published code takes
    assert counts == [16 if regions == "published" else number or 16, *[number or 16] * 2]


def test_regions_teach_the_backbone_from_both_domains():
    """The instance part's gradient reaches what each image alone lights up."""
    model = model_of(**{ALIGN + "IMAGE__WEIGHT": 0.0, ALIGN + "AGREEMENT__WEIGHT": 0.0})
    maps = []
    model.student.backbone.register_forward_hook(lambda module, args, out: maps.append(out))
    batch = [source_input(), target_input()]
    loss = model(batch)["align/loss_instance"]
    (gradient,) = torch.autograd.grad(loss, maps[0]["p2"])
    per_image = gradient.abs().sum(dim=(1, 2, 3))  # source, whole target, masked target
    assert per_image[0] > 0 and per_image[1] > 0 and per_image[2] == 0


def test_a_student_with_a_segmentation_head_is_aligned_too():
    head = {
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5,
        "MODEL__SEM_SEG_HEAD__CONVS_DIM": 16,
        "MODEL__SEM_SEG_HEAD__NORM": "",
    }
    model = model_of(**head, MODEL__MIC__STUDENT="BoxPanopticFPN", MODEL__MIC__SEM_SEG__MIX_WEIGHT=1.0)
    labelled = {**source_input(), "sem_seg": torch.randint(0, 5, (64, 96))}
    losses = model([labelled, target_input()])
    assert {"align/loss_image", "align/loss_instance", "mix/loss_sem_seg", "masked/loss_sem_seg"} <= losses.keys()
    sum(losses.values()).backward()
    trained = [*model.student.named_parameters(), *model.alignment.named_parameters()]
    assert not [name for name, p in trained if p.requires_grad and p.grad is None]
