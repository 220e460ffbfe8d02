"""The segmentation path inside the step: mixtures that the student sees, strips, and instance masks beside pixels."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import BitMasks

from helpers.models import ALL_BOXES, random_image, source_input, target_input, tiny_cfg
from mic_det.errors import ConfigError
from mic_det.modeling.pixel_labels import SemSegSettings, teacher_pixel_labels

HEAD = {"MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5, "MODEL__SEM_SEG_HEAD__CONVS_DIM": 16, "MODEL__SEM_SEG_HEAD__NORM": "",
        "MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 255}  # fmt: skip
MIX = {**HEAD, "MODEL__MIC__STUDENT": "SemanticSegmentor", "MODEL__MIC__SEM_SEG__MIX_WEIGHT": 0.5}
JITTER, BLUR = "MODEL__MIC__STRONG_AUG__JITTER_PROB", "MODEL__MIC__STRONG_AUG__BLUR_PROB"


def model_of(**overrides):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**overrides)).train()


def plain(value, size=(64, 96)):
    return torch.full((3, *size), value, dtype=torch.uint8)


def seen_mixture(**overrides):
    """What the student's backbone gets as the last image of a step, in [0, 255]: 200 = source, 40 = target."""
    model = model_of(**MIX, **overrides)
    batches = []
    model.student.backbone.register_forward_hook(lambda module, args, output: batches.append(args[0].detach()))
    labels = (torch.arange(96) // 24).expand(64, 96).clone()  # four upright strips
    source = {**source_input(), "image": plain(200), "sem_seg": labels}
    losses = model([source, {**target_input(), "image": plain(40)}])
    assert len(batches[0]) == 3 and "mix/loss_sem_seg" in losses
    return (batches[0][-1] * model.student.pixel_std + model.student.pixel_mean)[:, :64, :96]


def test_the_student_sees_half_of_the_sources_classes_on_the_target():
    seen = seen_mixture(**{JITTER: 0.0, BLUR: 0.0})
    strips = seen.reshape(3, 64, 4, 24).transpose(1, 2).reshape(3, 4, -1)
    values = strips[0].mean(dim=1).round()
    torch.testing.assert_close(strips, values[None, :, None].expand_as(strips))
    assert sorted(values.tolist()) == [40, 40, 200, 200]


def test_the_mixture_is_jittered_and_blurred_as_a_whole():
    jittered = seen_mixture(**{JITTER: 1.0, BLUR: 0.0})
    values = jittered.flatten(1).unique(dim=1)
    # two colours still, but not those of before: each channel was changed, all pixels of a colour alike
    assert values.shape[1] <= 4 and not any(abs(v - k) < 1e-3 for v in values.flatten() for k in (40.0, 200.0))
    blurred = seen_mixture(**{JITTER: 0.0, BLUR: 1.0, "MODEL__MIC__STRONG_AUG__BLUR_SIGMA": (1.0, 1.0)})
    between = (blurred > 45) & (blurred < 195)
    assert between.any(dim=0).any(dim=0).sum() >= 2, "the edge between source and target is soft"
    assert torch.isclose(blurred, torch.tensor(40.0), atol=1e-3).any()


def test_sources_take_turns_where_there_are_more_target_images_and_labels_are_mixed_alike():
    """Two sources and three targets: images as the student gets them, and the loss from its own features."""
    model = model_of(**MIX, **{JITTER: 0.0, BLUR: 0.0})
    seen = []
    model.student.backbone.register_forward_hook(lambda module, args, output: seen.append((args[0].detach(), output)))
    sources, targets = [], []
    for i in range(2):  # one class each, and the right half is never pasted
        labels = torch.full((64, 96), i)
        labels[:, 48:] = 255
        sources.append({**source_input(), "image": plain(200 + i), "sem_seg": labels})
    for i in range(3):
        targets.append({**target_input(), "image": random_image(seed=i)})
    with torch.no_grad():  # make the untrained teacher unsure, with a threshold that half of the pixels pass
        answer = model.teacher(targets[:1])[0]["sem_seg"]
        for part in (model.teacher, model.student):
            part.sem_seg_head.predictor.weight /= answer.std()
        answer = model.teacher(targets[:1])[0]["sem_seg"]
    model.task("pixels").settings.threshold = answer.softmax(dim=0).amax(dim=0).median().item()
    loss = model([*sources, *targets])["mix/loss_sem_seg"]
    taught = model.pseudo_labels(targets)["pixels"]
    images, features = seen[0]
    images = (images[-3:] * model.student.pixel_std + model.student.pixel_mean)[:, :, :64, :96]
    head = model.student.sem_seg_head.eval()
    logits = head({k: v[-3:] for k, v in features.items()})[0]
    terms = []
    for i, (x, logit, pixels) in enumerate(zip(images, logits, taught.pixels)):
        assert torch.allclose(x[:, :, :48], torch.tensor(200.0 + i % 2)), "the first source again for the third target"
        assert torch.allclose(x[:, :, 48:], targets[i]["image"][:, :, 48:].float(), atol=1e-3)
        expected = pixels.labels.clone()
        expected[:, :48] = i % 2
        weights = torch.full((64, 96), taught.quality[i].item())
        weights[:, :48] = 1.0
        terms.append((F.cross_entropy(logit[None], expected[None], reduction="none")[0] * weights).mean())
    assert 0.3 < taught.quality[0] < 0.7
    torch.testing.assert_close(loss, 0.5 * head.loss_weight * sum(terms) / 3)


def test_the_mixtures_loss_has_a_weight_of_its_own():
    losses = []
    for weight in (0.5, 2.0):
        model = model_of(**{**MIX, "MODEL__MIC__SEM_SEG__MIX_WEIGHT": weight})
        torch.manual_seed(4)
        losses.append(model([{**source_input(), "sem_seg": torch.randint(0, 5, (64, 96))}, target_input()]))
    assert losses[0]["mix/loss_sem_seg"] > 0
    torch.testing.assert_close(losses[1]["mix/loss_sem_seg"], losses[0]["mix/loss_sem_seg"] * 4)
    torch.testing.assert_close(losses[1]["masked/loss_sem_seg"], losses[0]["masked/loss_sem_seg"])


@pytest.mark.parametrize("top, bottom", [(9, 0), (0, 5), (3, 3)])
def test_strips_as_high_as_the_image_leave_nothing(top, bottom):
    logits = torch.zeros(1, 2, 4, 6)
    logits[:, 0] = 9.0

    def head(features):
        return logits, {}

    settings = SemSegSettings(ignore_top=top, ignore_bottom=bottom)
    found, quality, _ = teacher_pixel_labels(head, None, [(4, 6)], [(4, 6)], settings)
    assert (found[0].weights == 0).all() and quality[0] == 1


def test_margins_have_weight_0_in_both_losses_except_where_the_source_is_pasted():
    """Losses from the features that the student's backbone gave, with weights written out by hand."""
    model = model_of(**MIX, MODEL__MIC__SEM_SEG__MARGINS=(4, 20, 8, 0), MODEL__MIC__SEM_SEG__PIXEL_THRESHOLD=0.0)
    seen = []
    model.student.backbone.register_forward_hook(lambda module, args, output: seen.append(output))
    labels = torch.ones(64, 96, dtype=torch.int64)
    labels[:, 48:] = 255  # class 1 is pasted on the left half
    valid = torch.rand(64, 96) > 0.4
    target = {**target_input(), "valid_pixels": valid}
    losses = model([{**source_input(), "sem_seg": labels}, target])
    (pseudo,) = model.pseudo_labels([target])["pixels"].pixels
    mixed, mixed_weights = pseudo.labels.clone(), valid.float()  # q = 1
    mixed[:, :48], mixed_weights[:, :48] = 1, 1.0
    head = model.student.sem_seg_head.eval()
    for name, row, truth, weights, scale in (
        ("masked", 1, pseudo.labels, valid.float(), 1.0), ("mix", 2, mixed, mixed_weights, 0.5)
    ):  # fmt: skip
        logits = head({k: v[row : row + 1] for k, v in seen[0].items()})[0]
        expected = (F.cross_entropy(logits, truth[None], reduction="none")[0] * weights).mean()
        torch.testing.assert_close(losses[f"{name}/loss_sem_seg"], expected * scale * head.loss_weight)


def test_margins_without_a_map_are_refused_and_old_keys_name_the_new_one(caplog):
    model = model_of(**MIX, MODEL__MIC__SEM_SEG__MARGINS=(0.1, 0, 0, 0))
    with pytest.raises(ValueError, match='"valid_pixels", which MODEL.MIC.SEM_SEG.MARGINS needs'):
        model([{**source_input(), "sem_seg": torch.zeros(64, 96, dtype=torch.int64)}, target_input()])
    assert "MARGINS" not in caplog.text
    old = model_of(**MIX, MODEL__MIC__SEM_SEG__IGNORE_BOTTOM=5)
    assert "IGNORE_BOTTOM is an old key" in caplog.text and "MODEL.MIC.SEM_SEG.MARGINS" in caplog.text
    (pixels,) = old.teach([target_input()])["pixels"].pixels
    assert (pixels.weights[-5:] == 0).all() and old.task("pixels").settings.ignore_bottom == 5


def test_instance_masks_and_pixels_through_detectron2s_panoptic_fpn():
    masks = {"MODEL__MASK_ON": True, "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead",
             "MODEL__ROI_MASK_HEAD__NUM_CONV": 1, "MODEL__ROI_MASK_HEAD__CONV_DIM": 8,
             "MODEL__PANOPTIC_FPN__COMBINE__ENABLED": True}  # fmt: skip
    model = model_of(**HEAD, **ALL_BOXES, **masks, MODEL__MIC__STUDENT="PanopticFPN")
    labelled = {**source_input(), "sem_seg": torch.randint(0, 5, (64, 96))}
    labelled["instances"].gt_masks = BitMasks(torch.rand(2, 64, 96) > 0.5)
    losses = model([labelled, target_input()])
    assert {"source/loss_mask", "source/loss_sem_seg", "masked/loss_cls", "masked/loss_sem_seg"} <= losses.keys()
    sum(losses.values()).backward()
    assert not [name for name, p in model.student.named_parameters() if p.requires_grad and p.grad is None]
    (answer,) = model.eval()([{"image": random_image(), "height": 32, "width": 48}])
    assert answer["sem_seg"].shape == (5, 32, 48) and answer["panoptic_seg"][0].shape == (32, 48)
    assert answer["instances"].pred_masks.shape[1:] == (32, 48)


def masked_batch(domains, targets, **overrides):
    """What the student's backbone gets in the masked views, (N, 3, 64, 96) in [0, 255], and the losses."""
    model = model_of(
        **HEAD, MODEL__MIC__STUDENT="SemanticSegmentor", MODEL__MIC__MASK__DOMAINS=domains,
        MODEL__MIC__SEM_SEG__MASK__RATIO=0.0, **overrides,
    )  # fmt: skip
    seen = []
    model.student.backbone.register_forward_hook(lambda module, args, output: seen.append((args[0].detach(), output)))
    batch = [{**source_input(), "image": plain(200 + i), "sem_seg": torch.full((64, 96), i)} for i in range(2)]
    batch += [{**target_input(), "image": plain(40 + i)} for i in range(targets)]
    losses = model(batch)
    images, features = seen[0]
    images = (images[2:] * model.student.pixel_std + model.student.pixel_mean)[:, :, :64, :96]
    return model, images, {k: v[2:] for k, v in features.items()}, losses, batch


def test_separate_masking_has_one_image_of_each_domain():
    """Published for clear to adverse: one source image with its truth, one target image with its pseudo-label."""
    keys = {"MODEL__MIC__STRONG_AUG__ON_MASKED": False, "MODEL__MIC__SEM_SEG__PIXEL_THRESHOLD": 0.0}
    model, images, features, losses, batch = masked_batch("separate", 2, **keys)
    assert [round(x) for x in images.mean(dim=(1, 2, 3)).tolist()] == [40, 200], "with their own colours"
    pseudo = model.pseudo_labels(batch[2:])["pixels"].pixels[0].labels
    head = model.student.sem_seg_head.eval()
    logits = head(features)[0]
    expected = F.cross_entropy(logits, torch.stack([pseudo, torch.zeros_like(pseudo)])) * head.loss_weight
    torch.testing.assert_close(losses["masked/loss_sem_seg"], expected)


def test_an_odd_number_of_separate_images_is_shared_at_random():
    found = set()
    for seed in range(12):
        torch.manual_seed(seed)
        model = model_of(**HEAD, MODEL__MIC__STUDENT="SemanticSegmentor", MODEL__MIC__MASK__DOMAINS="separate")
        torch.manual_seed(seed)
        term = next(t for t in model.terms if t.name == "masked")
        labels = torch.zeros(64, 96, dtype=torch.int64)
        step = model.new_step([{**source_input(), "sem_seg": labels}, *[target_input()] * 3])
        term.views(step)
        found.add(step.num_masked)
    assert found == {(2, 1)}, "there is one source image"
    counts = set()
    for seed in range(12):
        torch.manual_seed(seed)
        step.num_masked, step.target = None, [target_input()]
        term.views(step)
        counts.add(step.num_masked)
    assert counts == {(1, 0), (0, 1)}


def test_masked_images_keep_their_colours_where_the_key_says_so():
    torch.manual_seed(3)
    jitter = {JITTER: 1.0, BLUR: 0.0}
    changed = masked_batch("target", 2, **jitter)[1]
    kept = masked_batch("target", 2, **jitter, MODEL__MIC__STRONG_AUG__ON_MASKED=False)[1]
    assert [round(x) for x in kept.mean(dim=(1, 2, 3)).tolist()] == [40, 41]
    assert (changed - kept).abs().mean() > 0.5


def test_separate_masking_is_for_label_maps_alone():
    with pytest.raises(ConfigError, match="'separate', which is for label maps without boxes"):
        model_of(**HEAD, MODEL__MIC__STUDENT="BoxPanopticFPN", MODEL__MIC__MASK__DOMAINS="separate")
