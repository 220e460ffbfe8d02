"""L_T: the reversal's gradient, hand-computed losses, levels, padding, domains, and the step around it."""

import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList

from helpers.models import ALIGNMENT, ALL_BOXES, C4, source_input, target_input, tiny_cfg
from mic_det.config import ALIGNED_REGIONS, validate_mic_config
from mic_det.errors import ConfigError
from mic_det.modeling.domain_alignment import domain_weights
from mic_det.modeling.domain_classifiers import gradient_reversal
from mic_det.modeling.regions import Regions

ALIGN = "MODEL__MIC__ALIGNMENT__"
IMAGE = {ALIGN + "IMAGE__ENABLED": True, ALIGN + "IMAGE__CHANNELS": 8}
INSTANCE = {ALIGN + "INSTANCE__ENABLED": True, ALIGN + "INSTANCE__FC_DIM": 8}
LOSSES = {"align/loss_image", "align/loss_instance", "align/loss_consistency"}


def model_of(**overrides):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**{**ALL_BOXES, **overrides})).train()


def gradients(model, batch, names=("",)):
    """Gradients of the student from the losses whose names start with one of ``names``."""
    torch.manual_seed(5)
    losses = model(batch)
    model.zero_grad()
    sum(v for k, v in losses.items() if k.startswith(tuple(names))).backward()
    return {k: p.grad.clone() for k, p in model.student.named_parameters() if p.grad is not None}


def grid(image_sizes, size=(64, 96)):
    return ImageList(torch.zeros(len(image_sizes), 3, *size), image_sizes)


def linear_alignment(**overrides):
    """Alignment whose image classifiers answer the mean of their channels: logit = mean(x) for x >= 0."""
    alignment = model_of(**{**IMAGE, **overrides}).alignment
    for classifier in alignment.image_classifiers.levels.values():
        torch.nn.init.constant_(classifier[0].weight, 1 / 16)
        torch.nn.init.constant_(classifier[2].weight, 1 / 8)
        torch.nn.init.zeros_(classifier[0].bias)
        torch.nn.init.zeros_(classifier[2].bias)
    return alignment


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.5])
def test_the_reversals_gradient_is_minus_weight_times_the_ordinary_one(weight):
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)

    def f(x):
        return (x.sin() * x).sum()

    (ordinary,) = torch.autograd.grad(f(x), x)
    (reversed_,) = torch.autograd.grad(f(gradient_reversal(x, weight)), x)
    assert torch.equal(reversed_, ordinary * -weight)
    assert torch.equal(gradient_reversal(x, weight), x)


def test_image_loss_of_one_level_by_hand():
    alignment = linear_alignment(**{ALIGN + "IMAGE__FEATURES": ["p4"], ALIGN + "IMAGE__WEIGHT": 2.0})
    # one source image and two of the target, 2 x 3 positions each; the third image fills 1 x 2 of them
    values = torch.tensor([[[1.0, 1, 1], [1, 1, 1]], [[2.0, 2, 2], [2, 2, 2]], [[3.0, 1, 9], [9, 9, 9]]])
    features = {"p4": values[:, None].expand(3, 16, 2, 3).clone()}
    sizes = [(32, 48), (32, 48), (16, 20)]  # stride 16
    losses, accuracies = alignment(sizes, features, [False, True, True])
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    source, first, second = softplus(1.0), softplus(-2.0), (softplus(-3.0) + softplus(-1.0)) / 2
    assert losses.keys() == {"loss_image"}
    assert losses["loss_image"].item() == pytest.approx(2.0 * (source / 2 + (first + second) / 4), rel=1e-5)
    assert accuracies["accuracy_image_p4"].item() == 0.5  # all of the target, nothing of the source


def test_levels_count_alike_and_padding_does_not_count():
    alignment = linear_alignment()
    shapes = {"p2": (16, 24), "p3": (8, 12), "p4": (4, 6), "p5": (2, 3), "p6": (1, 2)}
    features = {k: torch.rand(2, 16, *s) for k, s in shapes.items()}
    sizes = [(64, 96), (40, 70)]
    loss = alignment(sizes, features, [False, True])[0]["loss_image"]
    single = []
    for name, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32), ("p6", 64)):
        terms = []
        for x, (h, w), sign in zip(features[name], sizes, (1, -1)):
            inside = x[:, : math.ceil(h / stride), : math.ceil(w / stride)]
            terms.append(torch.nn.functional.softplus(sign * inside.mean(dim=0)).mean())
        single.append(sum(terms) / 2)
    torch.testing.assert_close(loss, sum(single) / 5)
    features["p2"][1, :, 10:] = 100.0  # rows below 40 / 4 are padding
    torch.testing.assert_close(alignment(sizes, features, [False, True])[0]["loss_image"], loss)
    features["p2"][1, :, 9] = 100.0
    assert alignment(sizes, features, [False, True])[0]["loss_image"] != loss


def test_levels_of_regions_are_the_poolers():
    model = model_of(**INSTANCE)
    pooler = model.student.roi_heads.box_pooler
    corner = torch.rand(400, 2) * 300
    boxes = Boxes(torch.cat([corner, corner + 2 ** (torch.rand(400, 2) * 9.5)], dim=1))
    levels = model.alignment.assign_levels([boxes])
    assert levels.unique().tolist() == [0, 1, 2, 3]
    # features that are their level's number: what the pooler reads tells the level it takes
    sizes = [(1024 // s, 1024 // s) for s in (4, 8, 16, 32)]
    maps = [torch.full((1, 1, *size), float(i)) for i, size in enumerate(sizes)]
    inside = boxes.tensor[:, 2:].amax(dim=1) < 1000
    read = pooler(maps, [boxes]).amax(dim=(1, 2, 3))
    assert inside.sum() > 300 and torch.equal(levels[inside].float(), read[inside])


def test_instance_loss_by_hand_with_unequal_numbers_of_regions():
    alignment = model_of(**{**INSTANCE, ALIGN + "INSTANCE__DROPOUT": 0.0}).alignment
    boxes = [Boxes([[0, 0, 10, 10], [0, 0, 60, 60]]), Boxes([[0.0, 0, 20, 20]]), Boxes([[0, 0, 30, 30], [5, 5, 9, 9]])]
    x = torch.randn(5, 16)
    with torch.no_grad():  # one of the two source regions is right, so that the share is not what chance would give
        classifier = alignment.instance_classifiers.levels[0]
        classifier[-1].bias -= classifier(x[:2]).mean()
    losses, accuracies = alignment([(64, 96)] * 3, {"p2": torch.zeros(3, 1, 1, 1)}, [False, True, True],
                                   Regions(boxes, x))  # fmt: skip
    logits = [alignment.instance_classifiers.levels[0](v).item() for v in x]  # all boxes are small: p2
    expected = sum(math.log1p(math.exp(v)) for v in logits[:2]) / 2
    expected += sum(math.log1p(math.exp(-v)) for v in logits[2:]) / 3
    assert losses["loss_instance"].item() == pytest.approx(expected / 2, rel=1e-5)
    right = sum(v <= 0 for v in logits[:2]) / 2 + sum(v > 0 for v in logits[2:]) / 3
    assert accuracies["accuracy_instance_p2"].item() == pytest.approx(right / 2) and right != 1
    assert math.isnan(accuracies["accuracy_instance_p3"].item())  # no region there


def test_every_levels_classifier_learns_where_there_are_regions_of_its_size():
    alignment = model_of(**INSTANCE).alignment
    sizes = (50.0, 150.0, 300.0, 600.0)
    boxes = [Boxes([[0, 0, s, s] for s in chosen]) for chosen in (sizes, sizes)]
    losses, _ = alignment([(600, 600)] * 2, {"p2": torch.zeros(2, 1, 1, 1)}, [False, True],
                          Regions(boxes, torch.randn(8, 16)))  # fmt: skip
    losses["loss_instance"].backward()
    assert all(c[0].weight.grad.abs().sum() > 0 for c in alignment.instance_classifiers.levels)
    alignment.zero_grad()
    boxes = [b[:1] for b in boxes]
    losses, _ = alignment([(600, 600)] * 2, {"p2": torch.zeros(2, 1, 1, 1)}, [False, True],
                          Regions(boxes, torch.randn(2, 16)))  # fmt: skip
    losses["loss_instance"].backward()
    # no parameter is left without a gradient: data-parallel training would wait for it
    grads = [c[0].weight.grad for c in alignment.instance_classifiers.levels]
    assert grads[0].abs().sum() > 0 and all((g == 0).all() for g in grads[1:])


def test_consistency_by_hand():
    alignment = linear_alignment(**ALIGNMENT, **{ALIGN + "INSTANCE__DROPOUT": 0.0})
    features = {k: torch.full((2, 16, 16, 16), v) for k, v in
                {"p2": 1.0, "p3": 2.0, "p4": 3.0, "p5": 4.0, "p6": 5.0}.items()}  # fmt: skip
    boxes = [Boxes([[8.0, 8, 40, 40]]), Boxes([[0.0, 0, 128, 128]])]  # p2, p3
    x = torch.randn(2, 16)
    losses, _ = alignment([(600, 600)] * 2, features, [False, True], Regions(boxes, x))
    levels = alignment.instance_classifiers.levels
    sigmoid = lambda v: 1 / (1 + math.exp(-v))  # noqa: E731
    expected = [
        abs(sigmoid(1.0) - sigmoid(levels[0](x[0]).item())),
        abs(sigmoid(2.0) - sigmoid(levels[1](x[1]).item())),
    ]
    assert losses["loss_consistency"].item() == pytest.approx(0.1 * sum(expected) / 2, rel=1e-5)


def test_domain_weights():
    assert domain_weights(torch.tensor([True, False, True])).tolist() == [0.25, 0.5, 0.25]
    assert domain_weights(torch.tensor([True, True])).tolist() == [0, 0]
    assert domain_weights(torch.tensor([False])).tolist() == [0]


def test_schedules():
    alignment = model_of(**IMAGE, SOLVER__MAX_ITER=1000).alignment
    assert [alignment.ramp(s) for s in (0, 10, 5000)] == [1, 1, 1]
    alignment = model_of(**IMAGE, SOLVER__MAX_ITER=1000, **{ALIGN + "SCHEDULE": "dann"}).alignment
    expected = [0, 2 / (1 + math.exp(-1)) - 1, 2 / (1 + math.exp(-10)) - 1, 2 / (1 + math.exp(-10)) - 1]
    assert [alignment.ramp(s) for s in (0, 100, 1000, 2000)] == pytest.approx(expected)


def test_the_ramp_scales_what_reaches_the_student_and_not_what_the_classifiers_learn():
    batch = [source_input(), target_input()]
    found = []
    for step in (100, 1000):
        model = model_of(**IMAGE, SOLVER__MAX_ITER=1000, **{ALIGN + "SCHEDULE": "dann"})
        model.steps = step
        student = gradients(model, batch, ["align/"])
        found.append((student, model.alignment.image_classifiers.levels["p3"][2].weight.grad.clone()))
    ratio = (2 / (1 + math.exp(-10)) - 1) / (2 / (1 + math.exp(-1)) - 1)
    name = "backbone.fpn_output3.weight"
    torch.testing.assert_close(found[1][0][name], found[0][0][name] * ratio)
    torch.testing.assert_close(found[1][1], found[0][1])


@pytest.mark.parametrize("overrides", [{}, C4], ids=["FPN", "C4"])
def test_with_all_weights_0_the_students_gradients_are_those_without_alignment(overrides):
    off = {ALIGN + f"{part}__WEIGHT": 0.0 for part in ("IMAGE", "INSTANCE", "AGREEMENT")}
    batch = [source_input(0), source_input(1), target_input(2)]
    without = gradients(model_of(**overrides), batch)
    zero = gradients(model_of(**overrides, **ALIGNMENT, **off), batch)
    probe = {ALIGN + f"{part}__GRL_WEIGHT": 0.0 for part in ("IMAGE", "INSTANCE")}
    probed = gradients(model_of(**overrides, **ALIGNMENT, **probe), batch)
    assert without.keys() == zero.keys() == probed.keys()
    for name in without:
        # the whole target view in the merged batch changes the order of summation, nothing more
        torch.testing.assert_close(zero[name], without[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(probed[name], without[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("regions", ALIGNED_REGIONS)
@pytest.mark.parametrize("overrides", [{}, C4], ids=["FPN", "C4"])
def test_every_parameter_gets_a_gradient_with_any_number_of_images(regions, overrides):
    model = model_of(**overrides, **ALIGNMENT, **{ALIGN + "INSTANCE__REGIONS": regions})
    batches = [[source_input(0, (40, 50)), target_input(1, (90, 33)), target_input(2, (32, 100))],
               [source_input(), source_input(1, classes=()), target_input()],
               [source_input()], [source_input(classes=()), target_input()]]  # fmt: skip
    for batch in batches:
        losses = model(batch)
        assert losses.keys() >= LOSSES
        assert all(torch.isfinite(v) for v in losses.values())
        model.zero_grad()
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.alignment.parameters())
        if len(batch) == 1:  # nothing to tell apart
            assert all(losses[k] == 0 for k in LOSSES)
            assert all((p.grad == 0).all() for p in model.alignment.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())


@pytest.mark.parametrize("domains", ["target", "source", "both"])
def test_the_classifiers_see_whole_images_whatever_is_masked(domains):
    model = model_of(**ALIGNMENT, **{"MODEL__MIC__MASK__DOMAINS": domains})
    seen, classified = [], []
    model.student.backbone.register_forward_hook(lambda module, args, output: seen.append((args[0].clone(), output)))
    model.alignment.register_forward_pre_hook(lambda module, args: classified.append(args))
    model([source_input(), target_input()])
    hidden = [(x == 0).all(dim=0).any().item() for x in seen[0][0]]
    assert len(seen) == 1 and hidden == [False, False] + [True] * (2 if domains == "both" else 1)
    sizes, features, is_target, regions = classified[0][:4]
    assert is_target == [False, True] and len(sizes) == len(regions.boxes) == 2
    assert all(torch.equal(features[k], v[:2]) for k, v in seen[0][1].items())


@pytest.mark.parametrize("settings", [{"MODEL__MIC__CONSISTENCY__WEIGHT": 0.0}, {"MODEL__MIC__BURN_IN_STEPS": 5}])
def test_alignment_goes_on_without_the_masked_loss_and_without_a_teachers_pass(settings):
    model = model_of(**ALIGNMENT, **settings)
    calls = []
    model.teacher.backbone.register_forward_hook(lambda *_: calls.append(1))
    losses = model([source_input(), target_input()])
    assert losses.keys() >= LOSSES and not any(k.startswith("masked/") for k in losses) and not calls


def test_accuracies_are_logged(storage):
    model = model_of(**ALIGNMENT)
    model([source_input(), target_input()])
    logged = {k: v for k, (v, _) in storage.latest().items() if k.startswith("align/accuracy")}
    assert {f"align/accuracy_image_p{i}" for i in range(2, 7)} | {"align/accuracy_instance_p2"} <= logged.keys()
    assert all(0 <= v <= 1 for v in logged.values())


def test_a_classifier_learns_what_differs_and_reversal_takes_it_away():
    """Two domains that differ in one direction: easy to tell apart, until the student hides it."""
    torch.manual_seed(0)

    def train(reversal, steps=300):
        alignment = model_of(**{**IMAGE, ALIGN + "IMAGE__FEATURES": ["p4"],
                                ALIGN + "IMAGE__GRL_WEIGHT": reversal}).alignment  # fmt: skip
        embed, recent = torch.nn.Conv2d(16, 16, 1), []
        optimizer = torch.optim.Adam([*alignment.parameters(), *embed.parameters()], lr=3e-3)
        for _ in range(steps):
            x = torch.randn(8, 16, 4, 4)
            x[4:, 0] += 3.0
            losses, accuracies = alignment([(64, 64)] * 8, {"p4": embed(x)}, [False] * 4 + [True] * 4)
            optimizer.zero_grad()
            losses["loss_image"].backward()
            optimizer.step()
            recent.append(accuracies["accuracy_image_p4"].item())
        return sum(recent[-100:]) / 100

    assert train(0.0) > 0.85 and train(1.0) < 0.65  # the best possible: 0.93; chance: 0.5


@pytest.mark.parametrize("overrides", [{}, C4], ids=["FPN", "C4"])
def test_bfloat16_losses_are_near_float32_ones(overrides):
    batch = [source_input(0), target_input(1)]
    found = []
    for enabled in (False, True):
        model = model_of(**overrides, **ALIGNMENT, **{ALIGN + "INSTANCE__DROPOUT": 0.0})
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(model(batch))
        sum(found[-1].values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.alignment.parameters())
    for name in LOSSES:
        assert found[1][name].dtype == torch.float32
        torch.testing.assert_close(found[1][name], found[0][name], rtol=0.02, atol=1e-3)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({ALIGN + "VIEW": "half"}, "ALIGNMENT.VIEW"),
        ({ALIGN + "SCHEDULE": "cosine"}, "ALIGNMENT.SCHEDULE"),
        ({ALIGN + "INSTANCE__DROPOUT": 1.0}, "INSTANCE.DROPOUT"),
        ({ALIGN + "IMAGE__WEIGHT": -1.0}, "IMAGE.WEIGHT"),
        ({ALIGN + "IMAGE__GRL_WEIGHT": -0.1}, "IMAGE.GRL_WEIGHT"),
        ({ALIGN + "AGREEMENT__ENABLED": True, **IMAGE}, "enable MODEL.MIC.ALIGNMENT.IMAGE and"),
        ({**ALIGNMENT, ALIGN + "IMAGE__WEIGHT": 0.0}, "enable MODEL.MIC.ALIGNMENT.IMAGE and"),
        ({**IMAGE, "DATASETS__TRAIN": ("some_train",)}, "DATASETS.TARGET is empty"),
        ({ALIGN + "INSTANCE__REGIONS": "all"}, "INSTANCE.REGIONS.*'same', 'published'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        validate_mic_config(tiny_cfg(**settings))


def test_feature_maps_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match="'p9'.*p2, p3"):
        model_of(**{**IMAGE, ALIGN + "IMAGE__FEATURES": ["p9"]})
    with pytest.raises(ConfigError, match="'p2'"):
        model_of(**{**ALIGNMENT, ALIGN + "IMAGE__FEATURES": ["p3", "p4", "p5"]})
