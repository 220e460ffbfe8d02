"""The segmentation path: quality, weighted loss against Detectron2's own, mixing, and the step around them."""

import pytest
import torch
from detectron2.modeling import build_model

from helpers.models import ALL_BOXES, random_image, source_input, target_input, tiny_cfg
from mic_det.config import validate_mic_config
from mic_det.engine.trainer import MICTrainer
from mic_det.errors import ConfigError
from mic_det.modeling.mixing import class_mix
from mic_det.modeling.pixel_labels import (
    PixelLabels,
    SemSegSettings,
    padded_labels,
    pixel_loss,
    teacher_pixel_labels,
)

SEM_SEG = "MODEL__SEM_SEG_HEAD__"
HEAD = {SEM_SEG + "NAME": "SemSegFPNHead", SEM_SEG + "NUM_CLASSES": 5, SEM_SEG + "IGNORE_VALUE": 255,
        SEM_SEG + "CONVS_DIM": 16, SEM_SEG + "NORM": "", SEM_SEG + "LOSS_WEIGHT": 0.7}  # fmt: skip
BOTH = {**HEAD, **ALL_BOXES, "MODEL__MIC__STUDENT": "BoxPanopticFPN"}
ALONE = {**HEAD, "MODEL__MIC__STUDENT": "SemanticSegmentor"}
MIX = {"MODEL__MIC__SEM_SEG__MIX_WEIGHT": 1.0}
NO_CHANGE = {"MODEL__MIC__STRONG_AUG__JITTER_PROB": 0.0, "MODEL__MIC__STRONG_AUG__BLUR_PROB": 0.0}
SIZES = [(64, 96), (40, 70)]


def model_of(**overrides):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**overrides)).train()


def label_map(size=(64, 96), seed=0, ignored=0.1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, size, generator=generator)
    labels[torch.rand(size, generator=generator) < ignored] = 255
    return labels


def source(seed=0, size=(64, 96), **kwargs):
    return {**source_input(seed, size, **kwargs), "sem_seg": label_map(size, seed)}


class FixedLogits(torch.nn.Module):
    """A segmentation head that answers what it was given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, features):
        return self.logits, {}


def test_quality_and_strips_by_hand():
    # top probabilities: softmax of (x, 0) is 1 / (1 + exp(-x)): 4 -> 0.982, 3 -> 0.953
    first = torch.zeros(2, 4, 6)
    first[0] = 4.0
    first[0, :, 3:] = -3.0
    logits = torch.stack([first, torch.zeros(2, 4, 6)])
    logits[1, 1] = 9.0
    logits[1, :, 2:] = 77.0  # padding, which must not count
    settings = SemSegSettings(threshold=0.968, ignore_top=1, ignore_bottom=2)
    found, quality, _ = teacher_pixel_labels(FixedLogits(logits), None, [(4, 6), (2, 6)], [(4, 6), (2, 6)], settings)
    assert [q.item() for q in quality] == [0.5, 1.0]
    assert found[0].labels.tolist() == [[0, 0, 0, 1, 1, 1]] * 4
    assert found[0].weights.tolist() == [[0] * 6, [0.5] * 6, [0] * 6, [0] * 6]
    assert found[1].labels.shape == (2, 6) and (found[1].labels == 1).all() and (found[1].weights == 0).all()


def test_labels_come_in_the_students_frame():
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, 1, :, 2:] = 8.0
    logits[0, 0, :, :2] = 8.0
    found, *_ = teacher_pixel_labels(FixedLogits(logits), None, [(4, 4)], [(8, 12)], SemSegSettings())
    assert found[0].labels.shape == (8, 12)
    assert (found[0].labels[:, :5] == 0).all() and (found[0].labels[:, 7:] == 1).all()


def test_true_labels_without_weights_give_detectron2s_loss():
    head = model_of(**BOTH).student.sem_seg_head
    features = {f: torch.randn(2, 16, 64 // s, 96 // s) for f, s in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32))}
    targets = [PixelLabels.of_truth(label_map(size, i)) for i, size in enumerate(SIZES)]
    labels, weights = padded_labels(targets, (64, 96), 255)
    assert (labels[1, 40:] == 255).all() and (labels[1, :, 70:] == 255).all() and weights.sum() == 64 * 96 + 40 * 70
    theirs = head(features, labels)[1]["loss_sem_seg"]
    torch.testing.assert_close(pixel_loss(head, features, targets), theirs, rtol=1e-5, atol=1e-5)
    for target in targets:
        target.weights *= 0.25
    torch.testing.assert_close(pixel_loss(head, features, targets), theirs * 0.25, rtol=1e-5, atol=1e-5)
    for target in targets:
        target.labels[:] = 255
    assert pixel_loss(head, features, targets) == 0


def test_weights_are_of_pixels():
    head = model_of(**BOTH).student.sem_seg_head
    features = {f: torch.randn(1, 16, 64 // s, 96 // s) for f, s in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32))}
    labels, parts = label_map(ignored=0), []
    weights = torch.rand(64, 96)
    whole = pixel_loss(head, features, [PixelLabels(labels, weights)])
    for half in (slice(0, 30), slice(30, 64)):
        kept = torch.zeros_like(weights)
        kept[half] = weights[half]
        parts.append(pixel_loss(head, features, [PixelLabels(labels, kept)]))
    torch.testing.assert_close(sum(parts), whole)


def test_the_masked_loss_of_unchanged_views_and_true_labels_is_the_source_loss():
    """Ratio 0, no colour change, masked views of the source: L_M's pixels see what L_S sees."""
    settings = {"MODEL__MIC__MASK__RATIO": 0.0, "MODEL__MIC__MASK__DOMAINS": "source", **NO_CHANGE}
    losses = model_of(**BOTH, **settings)([source(0), source(1, (40, 70)), target_input()])
    torch.testing.assert_close(losses["masked/loss_sem_seg"], losses["source/loss_sem_seg"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_mixing_keeps_where_every_pixel_is_from(seed):
    # images and labels that tell their origin: source 1000 + index, target 2000 + index
    h, w = 20, 30
    index = torch.arange(h * w).reshape(h, w)
    truth = label_map((h, w), seed)
    target = PixelLabels(torch.full((24, 26), 3), torch.full((24, 26), 0.3))
    image_s, image_t = (
        (1000 + index).expand(3, h, w).float(),
        (2000 + torch.arange(24 * 26)).reshape(24, 26).expand(3, 24, 26).float(),
    )
    generator = torch.Generator().manual_seed(seed)
    image, mixed, mask = class_mix(image_s, PixelLabels.of_truth(truth), image_t, target, 255, generator)
    pasted = set(truth[:20, :26][mask[:20]].tolist())
    assert len(pasted) == 3 and 255 not in pasted  # half of five classes, rounded up
    for y in range(24):
        for x in range(26):
            from_source = y < h and truth[y, x].item() in pasted
            assert mask[y, x] == from_source
            expected = (1000 + index[y, x], truth[y, x], 1.0) if from_source else (2000 + y * 26 + x, 3, 0.3)
            assert image[0, y, x] == expected[0] and mixed.labels[y, x] == expected[1]
            assert mixed.weights[y, x] == pytest.approx(expected[2])
    assert (image_t[0] >= 2000).all() and (target.labels == 3).all()  # the inputs are as they were


def test_nothing_to_paste():
    target = PixelLabels(torch.zeros(4, 4, dtype=torch.int64), torch.ones(4, 4))
    nothing = PixelLabels.of_truth(torch.full((4, 4), 255))
    image, mixed, mask = class_mix(torch.ones(3, 4, 4), nothing, torch.zeros(3, 4, 4), target)
    assert not mask.any() and (image == 0).all() and (mixed.labels == 0).all()


@pytest.mark.parametrize("settings", [BOTH, ALONE], ids=["boxes and pixels", "pixels alone"])
@pytest.mark.parametrize("mix", [{}, MIX], ids=["", "ClassMix"])
def test_every_parameter_gets_a_gradient_and_the_teacher_none(settings, mix):
    model = model_of(**settings, **mix)
    batches = [
        [source(), target_input()],
        [source(0, (40, 50)), source(1), target_input(1, (90, 33)), target_input(2, (32, 100)), target_input(3)],
    ]
    for batch in batches:
        losses = model(batch)
        assert {"source/loss_sem_seg", "masked/loss_sem_seg"} <= losses.keys()
        assert ("mix/loss_sem_seg" in losses) == bool(mix)
        assert ("masked/loss_cls" in losses) == ("source/loss_cls" in losses) == (settings is BOTH)
        model.zero_grad()
        sum(losses.values()).backward()
        for name, p in model.student.named_parameters():
            assert (p.grad is not None) == p.requires_grad, name
        assert all(p.grad is None for p in model.teacher.parameters())


def test_one_teacher_pass_one_mask_and_one_student_pass_for_boxes_and_pixels():
    model = model_of(**BOTH, **MIX, MODEL__MIC__MASK__BLOCK_SIZE=16)
    seen, taught = [], []
    model.student.backbone.register_forward_hook(lambda module, args, output: seen.append(args[0].clone()))
    model.teacher.backbone.register_forward_hook(lambda *_: taught.append(1))
    model([source(), target_input()])
    assert len(taught) == len(seen) == 1 and len(seen[0]) == 3  # source, masked target, mixed target
    hidden = [(x == 0).all(dim=0).float().mean().item() for x in seen[0]]
    assert hidden[0] < 0.01 and 0.2 < hidden[1] < 0.8 and hidden[2] < 0.01


def test_a_segmentation_alone_has_a_mask_of_its_own():
    mask = {"MODEL__MIC__SEM_SEG__MASK__BLOCK_SIZE": 8, "MODEL__MIC__SEM_SEG__MASK__RATIO": 0.9}
    drawn = model_of(**ALONE, **mask).mask
    assert (drawn.block_size, drawn.ratio) == (8, 0.9)
    drawn = model_of(**BOTH, **mask).mask
    assert (drawn.block_size, drawn.block_share, drawn.ratio) == (0, 0.04, 0.5)


def test_box_losses_are_bit_equal_with_the_segmentation_heads_weight_0():
    """Two optimizer steps of a detector, and of the same detector beside a head that counts nothing."""
    found = []
    for settings in ({**ALL_BOXES}, {**BOTH, SEM_SEG + "LOSS_WEIGHT": 0.0}):
        model = model_of(**settings)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        steps = []
        for step in range(2):
            torch.manual_seed(step)
            losses = model([source(step), target_input(step + 7)])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            steps.append({k: v.item() for k, v in losses.items() if not k.endswith("sem_seg")})
        found.append(steps)
    assert found[0] == found[1] and len(found[0][0]) == 6


def test_lambda_and_burn_in():
    losses = []
    for weight in (1.0, 0.25):
        torch.manual_seed(3)
        model = model_of(**ALONE, **NO_CHANGE, MODEL__MIC__SEM_SEG__WEIGHT=weight)
        model.teacher.sem_seg_head.predictor.bias.data[2] = 20.0  # a sure teacher
        torch.manual_seed(3)
        model._teacher_ready = True
        losses.append(model([source(), target_input()])["masked/loss_sem_seg"])
    assert losses[0] > 0
    torch.testing.assert_close(losses[1], losses[0] * 0.25)
    for settings in ({"MODEL__MIC__BURN_IN_STEPS": 5}, {"MODEL__MIC__SEM_SEG__WEIGHT": 0.0}):
        model = model_of(**ALONE, **settings)
        calls = []
        model.teacher.backbone.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        assert model([source(), target_input()]).keys() == {"source/loss_sem_seg"} and not calls


def test_classmix_is_off_during_burn_in():
    """Until the teacher has started its labels are worth nothing: a step is the source's alone, without its pass."""
    model = model_of(**ALONE, **MIX, MODEL__MIC__BURN_IN_STEPS=2)
    calls = []
    model.teacher.backbone.register_forward_hook(lambda *_: calls.append(1))
    for model.steps in (0, 1):
        assert model([source(), target_input()]).keys() == {"source/loss_sem_seg"} and not calls
    model.steps = 2
    assert "mix/loss_sem_seg" in model([source(), target_input()]) and calls == [1]


@pytest.mark.parametrize("settings", [BOTH, ALONE], ids=["boxes and pixels", "pixels alone"])
def test_a_batch_without_a_labelled_pixel_counts_0(settings):
    model = model_of(**settings, **MIX)
    ignored = {**source(), "sem_seg": torch.full((64, 96), 255)}
    losses = model([ignored, target_input()])
    assert losses["source/loss_sem_seg"] == 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.student.parameters() if p.requires_grad)
    # beside an image with labels, it is as if its pixels were not there
    torch.testing.assert_close(
        model([ignored, source(1)])["source/loss_sem_seg"], model([source(1)])["source/loss_sem_seg"]
    )


@pytest.mark.parametrize("architecture", ["SemanticSegmentor", "BoxPanopticFPN"])
def test_a_batch_without_a_labelled_pixel_counts_0_in_plain_models_too(architecture):
    torch.manual_seed(0)
    model = MICTrainer.build_model(tiny_cfg(**HEAD, MODEL__META_ARCHITECTURE=architecture)).train()
    ignored = {**source(), "sem_seg": torch.full((64, 96), 255)}
    losses = model([ignored])
    assert losses["loss_sem_seg"] == 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.sem_seg_head.predictor.weight.grad is not None
    torch.testing.assert_close(model([ignored, source(1)])["loss_sem_seg"], model([source(1)])["loss_sem_seg"])
    assert model.eval()([{"image": random_image()}])[0]["sem_seg"].isfinite().all()


def test_quality_is_logged(storage):
    model_of(**ALONE)([source(), target_input()])
    assert 0 <= storage.latest()["pseudo/pixel_quality"][0] <= 1


@pytest.mark.parametrize("settings", [BOTH, ALONE], ids=["boxes and pixels", "pixels alone"])
def test_the_teacher_answers_in_the_images_own_size(settings):
    model = model_of(**settings).eval()
    model.teacher.sem_seg_head.predictor.bias.data[4] = 1e4
    (answer,) = model([{"image": random_image(), "height": 32, "width": 48}])
    assert answer["sem_seg"].shape == (5, 32, 48) and (answer["sem_seg"].argmax(dim=0) == 4).all()
    assert ("instances" in answer) == (settings is BOTH)
    model.evaluate = "student"
    assert not (model([{"image": random_image()}])[0]["sem_seg"].argmax(dim=0) == 4).all()


@pytest.mark.parametrize("key, value", [
    ("PIXEL_THRESHOLD", 1.5), ("MIX_WEIGHT", -1.0), ("WEIGHT", -0.1), ("IGNORE_TOP", -1), ("MASK__RATIO", 1.0),
    ("MARGINS", (1, 2, 3)), ("MARGINS", (-1, 0, 0, 0)), ("MARGINS", (0, 0, 2.5, 0)), ("MARGINS", (0.6, 0.4, 0, 0)),
    ("MARGINS", ("10%", 0, 0, 0)), ("MARGINS", (float("nan"), 0, 0, 0)),
    ("MASK__BLOCK_SIZE", -1),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(key, value):
    with pytest.raises(ConfigError, match="MODEL.MIC.SEM_SEG." + key.replace("__", ".")):
        validate_mic_config(tiny_cfg(**{"MODEL__MIC__SEM_SEG__" + key: value}))


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="MODEL.MASK_ON"):
        validate_mic_config(tiny_cfg(MODEL__MIC__STUDENT="PanopticFPN"))
    with pytest.raises(ConfigError, match="MODEL.MIC.ALIGNMENT is for detectors"):
        model_of(**ALONE, MODEL__MIC__ALIGNMENT__IMAGE__ENABLED=True)
