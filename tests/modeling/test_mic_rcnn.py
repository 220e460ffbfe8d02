"""The whole step: views, gradients, schedules, refusals."""

import pytest
import torch
from detectron2.modeling import build_model

from helpers.models import ALL_BOXES, NO_BOXES, source_input, target_input, tiny_cfg
from mic_det.config import QUALITY_MODES
from mic_det.errors import ConfigError
from mic_det.modeling import MIC

NO_CHANGE = {
    "MODEL__MIC__MASK__RATIO": 0.0,
    "MODEL__MIC__STRONG_AUG__JITTER_PROB": 0.0,
    "MODEL__MIC__STRONG_AUG__BLUR_PROB": 0.0,
}


class Negative(torch.nn.Module):
    """A strong view that can be told by hand."""

    def forward(self, image):
        return 255 - image.float()


def backbone_inputs(model, batch):
    """What the student's backbone sees in one step, and the losses."""
    seen = []
    handle = model.student.backbone.register_forward_hook(lambda module, args, output: seen.append(args[0].clone()))
    losses = model.train()(batch)
    handle.remove()
    return seen, losses


def normalised(model, image):
    return (image - model.student.pixel_mean) / model.student.pixel_std


@pytest.mark.parametrize("settings", [ALL_BOXES, NO_BOXES])
def test_every_trainable_parameter_gets_a_gradient_and_the_teacher_none(settings):
    model = build_model(tiny_cfg(**settings)).train()
    losses = model([source_input(), target_input()])
    assert {"source/loss_cls", "source/loss_rpn_loc", "masked/loss_cls", "masked/loss_rpn_cls"} <= losses.keys()
    sum(losses.values()).backward()
    for name, p in model.student.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
    assert all(p.grad is None for p in model.teacher.parameters())


def test_masked_losses_reach_the_backbone():
    model = build_model(tiny_cfg(**ALL_BOXES)).train()
    losses = model([source_input(), target_input()])
    sum(v for k, v in losses.items() if k.startswith("masked/")).backward()
    assert model.student.backbone.fpn_lateral2.weight.grad.abs().sum() > 0


def test_no_pseudo_boxes_is_zero_or_all_background():
    skipped = build_model(tiny_cfg(**NO_BOXES)).train()([source_input(), target_input()])
    assert skipped["masked/loss_cls"] == 0 and skipped["masked/loss_rpn_cls"] == 0
    rule = {"MODEL__MIC__CONSISTENCY__EMPTY_IMAGES": "background"}
    losses = build_model(tiny_cfg(**NO_BOXES, **rule)).train()([source_input(), target_input()])
    assert losses["masked/loss_cls"] > 0 and losses["masked/loss_rpn_cls"] > 0


@pytest.mark.parametrize("domains, num_views", [("target", 5), ("source", 4), ("both", 7)])
def test_one_backbone_pass_sees_source_whole_and_the_chosen_domains_masked(domains, num_views):
    model = build_model(tiny_cfg(MODEL__MIC__MASK__DOMAINS=domains, MODEL__MIC__MASK__BLOCK_SIZE=8, **ALL_BOXES))
    batch = [source_input(0), source_input(1), target_input(2), target_input(3), target_input(4)]
    seen, losses = backbone_inputs(model, batch)
    assert len(seen) == 1 and len(seen[0]) == num_views
    for i in (0, 1):
        torch.testing.assert_close(seen[0][i], normalised(model, batch[i]["image"].float()))
    hidden = (seen[0][2:] == 0).all(dim=1).float().mean(dim=(1, 2))
    assert ((hidden > 0.3) & (hidden < 0.7)).all()
    assert "masked/loss_cls" in losses


def test_hidden_patches_are_the_mean_colour_and_padding_is_not_masked():
    model = build_model(tiny_cfg(MODEL__MIC__MASK__BLOCK_SIZE=16, MODEL__MIC__STRONG_AUG__JITTER_PROB=0.0,
                                 MODEL__MIC__STRONG_AUG__BLUR_PROB=0.0, **ALL_BOXES))  # fmt: skip
    batch = [source_input(0, (64, 96)), target_input(1, (48, 64)), target_input(2, (64, 40))]
    seen, _ = backbone_inputs(model, batch)
    for row, (h, w) in ((1, (48, 64)), (2, (64, 40))):
        view = seen[0][row]
        image = normalised(model, batch[row]["image"].float())
        blocks = view[:, :h, :w]
        hidden = (blocks == 0).all(dim=0)
        torch.testing.assert_close(blocks[:, ~hidden], image[:, ~hidden])
        assert hidden.any() and not hidden.all()
        assert (view[:, h:] == 0).all() and (view[:, :, w:] == 0).all()


def test_strong_view_without_mask_is_a_valid_setting():
    model = build_model(tiny_cfg(MODEL__MIC__MASK__RATIO=0.0, **ALL_BOXES))
    seen, losses = backbone_inputs(model, [source_input(), target_input()])
    assert not (seen[0][1] == 0).all(dim=0).any()
    assert not torch.allclose(seen[0][1], normalised(model, target_input()["image"].float()))
    assert "masked/loss_cls" in losses


def test_source_images_get_the_colour_changes_where_asked_and_are_never_hidden():
    model = build_model(tiny_cfg(MODEL__MIC__STRONG_AUG__ON_SOURCE=True, MODEL__MIC__CONSISTENCY__WEIGHT=0.0))
    model.strong_view = Negative()
    seen, losses = backbone_inputs(model, [source_input(0), source_input(1)])
    for i in (0, 1):
        torch.testing.assert_close(seen[0][i], normalised(model, 255 - source_input(i)["image"].float()))
    assert losses["source/loss_box_reg"].isfinite()


@pytest.mark.parametrize("domains", ["target", "both"])
def test_only_whole_source_images_are_erased_and_become_the_mean(domains):
    erased = {"MODEL__MIC__STRONG_AUG__ON_SOURCE": True, "MODEL__MIC__STRONG_AUG__ERASE_PROB": 1.0,
              "MODEL__MIC__STRONG_AUG__ERASE_AREA": (0.1, 0.2), "MODEL__MIC__MASK__DOMAINS": domains}  # fmt: skip
    model = build_model(tiny_cfg(**{**NO_CHANGE, **ALL_BOXES, **erased}))
    batch = [source_input(0), source_input(1), target_input(2)]
    seen, _ = backbone_inputs(model, batch)
    order = [*batch, *(batch[:2] if domains == "both" else [])]  # source, masked target, masked source
    for i, (view, x) in enumerate(zip(seen[0], order)):
        hidden = (view == 0).all(dim=0)
        share = hidden.float().mean().item()
        assert 0.09 < share < 0.21 if i < 2 else share == 0
        torch.testing.assert_close(view[:, ~hidden], normalised(model, x["image"].float())[:, ~hidden])


def test_source_images_get_the_targets_colours_in_all_their_views_and_the_target_keeps_its_own():
    transfer = {"MODEL__MIC__STRONG_AUG__COLOR_TRANSFER_PROB": 1.0, "MODEL__MIC__MASK__DOMAINS": "both"}
    model = build_model(tiny_cfg(**{**NO_CHANGE, **ALL_BOXES, **transfer}))
    batch = [source_input(), target_input()]
    batch[1]["image"] = batch[1]["image"] // 8  # dark
    source, target = (x["image"].clone() for x in batch)
    seen, _ = backbone_inputs(model, batch)
    whole, masked_target, masked_source = seen[0]
    assert whole.mean() < normalised(model, source.float()).mean() - 0.1
    torch.testing.assert_close(masked_source, whole)
    torch.testing.assert_close(masked_target, normalised(model, target.float()))
    assert torch.equal(batch[0]["image"], source), "labels and other terms have the image itself"


def test_without_changes_the_student_sees_what_the_teacher_sees():
    model = build_model(tiny_cfg(**NO_CHANGE, **ALL_BOXES))
    teacher_saw = []
    model.teacher.backbone.register_forward_hook(lambda module, args, output: teacher_saw.append(args[0]))
    seen, _ = backbone_inputs(model, [source_input(), target_input()])
    torch.testing.assert_close(seen[0][1:], teacher_saw[0])


def test_images_of_all_sizes_and_numbers_go_through():
    model = build_model(tiny_cfg(**ALL_BOXES)).train()
    for batch in ([source_input(0, (40, 50)), target_input(1, (90, 33)), target_input(2, (32, 100))],
                  [source_input(), source_input(1, classes=()), target_input()], [source_input()],
                  [source_input(classes=()), target_input()]):  # fmt: skip
        losses = model(batch)
        assert all(torch.isfinite(v) for v in losses.values())
        sum(losses.values()).backward()


def test_a_batch_without_source_is_refused():
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH"):
        build_model(tiny_cfg()).train()([target_input()])


def test_weight_zero_leaves_the_target_out(storage):
    model = build_model(tiny_cfg(MODEL__MIC__CONSISTENCY__WEIGHT=0.0, **ALL_BOXES))
    calls = []
    model.teacher.backbone.register_forward_hook(lambda *_: calls.append(1))
    seen, losses = backbone_inputs(model, [source_input(), target_input()])
    assert not calls and len(seen[0]) == 1
    assert not any(k.startswith("masked/") for k in losses)


def test_ramp_and_burn_in_of_lambda():
    model = build_model(tiny_cfg(MODEL__MIC__BURN_IN_STEPS=3, MODEL__MIC__CONSISTENCY__WEIGHT=0.8,
                                 MODEL__MIC__CONSISTENCY__RAMP_UP_STEPS=4))  # fmt: skip
    weights = []
    for model.steps in range(9):
        weights.append(0.8 * model.ramp())
    assert weights == pytest.approx([0, 0, 0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_lambda_scales_the_masked_losses():
    losses = []
    for weight in (1.0, 0.25):
        torch.manual_seed(0)
        model = build_model(tiny_cfg(MODEL__MIC__CONSISTENCY__WEIGHT=weight, **ALL_BOXES)).train()
        losses.append(model([source_input(), target_input()]))
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value * (0.25 if name.startswith("masked/") else 1))


def test_masked_source_images_have_true_boxes_and_so_the_same_losses_in_every_quality_mode():
    found = {}
    for mode in QUALITY_MODES:
        torch.manual_seed(0)
        keys = {"MODEL__MIC__CONSISTENCY__QUALITY": mode, "MODEL__MIC__MASK__DOMAINS": "source"}
        model = build_model(tiny_cfg(**keys, **ALL_BOXES)).train()
        found[mode] = {k: v for k, v in model([source_input(), target_input()]).items() if k.startswith("masked/")}
    for mode, losses in found.items():
        assert losses.keys() == {"masked/loss_rpn_cls", "masked/loss_cls"}
        for name, value in losses.items():
            torch.testing.assert_close(value, found["none"][name], msg=f"{mode} {name}")


def test_box_regression_terms_appear_when_selected():
    keys = {"MODEL__MIC__CONSISTENCY__RPN_BOX_REG_WEIGHT": 1.0, "MODEL__MIC__CONSISTENCY__ROI_BOX_REG_WEIGHT": 1.0}
    losses = build_model(tiny_cfg(**keys, **ALL_BOXES)).train()([source_input(), target_input()])
    assert {"masked/loss_rpn_loc", "masked/loss_box_reg"} <= losses.keys()


def test_student_and_teacher_of_different_classes_are_refused():
    plain = {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN"}
    student, teacher = build_model(tiny_cfg(**plain)), build_model(tiny_cfg(MODEL__ROI_HEADS__NUM_CLASSES=5, **plain))
    with pytest.raises(ConfigError, match="3 classes and the teacher 5"):
        MIC(student=student, teacher=teacher)


def test_students_with_unknown_heads_are_refused():
    panoptic = {"MODEL__MIC__STUDENT": "BoxPanopticFPN", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 3}
    cascade = {"MODEL__ROI_HEADS__NAME": "CascadeROIHeads", "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True}
    with pytest.raises(TypeError, match="BoxPanopticFPN, whose heads are unknown"):
        build_model(tiny_cfg(**panoptic, **cascade))
    with pytest.raises(TypeError, match="Linear, whose heads are unknown"):
        MIC(student=torch.nn.Linear(2, 2))


def test_from_python_a_student_alone_is_enough():
    model = MIC(student=build_model(tiny_cfg(MODEL__META_ARCHITECTURE="GeneralizedRCNN")))
    assert all(torch.equal(v, model.student.state_dict()[k]) for k, v in model.teacher.state_dict().items())
    losses = model.train()([source_input(), target_input()])
    assert {"source/loss_cls", "masked/loss_cls"} <= losses.keys()


def test_the_old_name_is_still_there_and_names_the_new_one(caplog):
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MICRCNN"  # merging it would set the name that it has now
    model = build_model(cfg)
    assert isinstance(model, MIC) and 'use "MIC"' in caplog.text
