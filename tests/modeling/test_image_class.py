"""Image classes: losses by hand, SAM against a step worked out apart from it, and what the views see."""

import copy
import math

import pytest
import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_model
from detectron2.utils.events import EventStorage
from torch import nn

from helpers.image_classes import tiny_options
from mic_det.checkpoint.matching import rename_keys
from mic_det.engine.setup import load_config
from mic_det.errors import ConfigError
from mic_det.modeling import MIC
from mic_det.modeling.image_classifier import ImageClassifier
from mic_det.modeling.masking import PatchMask
from mic_det.modeling.sharpness import SharpnessAware
from mic_det.modeling.tasks import ImageClassTask, PseudoClasses, find_tasks
from mic_det.modeling.terms import ClassConfusion, ConditionalAlignment, MaskedConsistency, Step, Supervised
from mic_det.modeling.terms.class_confusion import class_confusion
from mic_det.modeling.terms.conditional_alignment import outer_product
from mic_det.modeling.torchvision_vit import TorchvisionViT
from mic_det.modeling.views import View, Views

CLASSES, SIZE = 3, 16


class TinyBackbone(Backbone):
    """One convolution, with BatchNorm where asked for."""

    def __init__(self, norm=False):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8) if norm else nn.Tanh())

    def forward(self, x):
        return {"res2": self.layers(x)}

    def output_shape(self):
        return {"res2": ShapeSpec(channels=8, stride=4)}


def classifier(norm="LN", batch_norm=False, seed=0):
    torch.manual_seed(seed)
    return ImageClassifier(
        backbone=TinyBackbone(batch_norm), num_classes=CLASSES, bottleneck=6, norm=norm, pixel_mean=[120.0] * 3,
        pixel_std=[60.0] * 3, input_format="RGB",
    )  # fmt: skip


def batch(seed=0, number=4):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2 * number, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    inputs = [{"image": x, "domain": "source", "image_class": i % CLASSES} for i, x in enumerate(images[:number])]
    return inputs + [{"image": x, "domain": "target"} for x in images[number:]]


def mic(terms=None, sharpness=None, **kwargs):
    student = classifier(**kwargs)
    terms = terms or [Supervised(), MaskedConsistency({"image_class": 1.0}), ClassConfusion(), cdan()]
    return MIC(student=student, terms=terms, mask=PatchMask(4, 0.5), sharpness=sharpness).train()


def cdan(seed=5):
    torch.manual_seed(seed)
    return ConditionalAlignment(CLASSES, 6, hidden=8, ramp_steps=0)


def losses_of(model, inputs, seed=3):
    torch.manual_seed(seed)
    with EventStorage():
        return model(inputs)


# ------------------------------------------------------------------------------------------- losses by hand


def test_class_confusion_of_two_images_of_equal_entropy():
    """P^T P = [[5, 3, 4], [3, 2, 3], [4, 3, 5]] / 16, with row sums 12, 8, 12: (3 - 5/12 - 2/8 - 5/12) / 3 = 23/36."""
    p = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], dtype=torch.float64)
    assert class_confusion(2.5 * p.log(), 2.5).item() == pytest.approx(23 / 36, rel=1e-12)


def test_class_confusion_weights_sure_images_more_and_not_by_gradient():
    p, uniform = (0.5, 0.25, 0.25), 1 / 3
    sure, unsure = 1 + 2**-1.5, 1 + 1 / 3  # 1 + exp(-H): H = 1.5 ln 2 and ln 3
    w, v = (2 * x / (sure + unsure) for x in (sure, unsure))
    kept = sum((w * q * q + v * uniform**2) / (w * q + v * uniform) for q in p)
    logits = torch.tensor([p, (uniform,) * 3], dtype=torch.float64).log().requires_grad_()
    loss = class_confusion(logits, 1.0)
    assert loss.item() == pytest.approx((3 - kept) / 3, rel=1e-12)

    def with_constant_weights(x):
        q = x.softmax(dim=1)
        c = (q * torch.tensor([[w], [v]], dtype=torch.float64)).T @ q
        c = c / c.sum(dim=1, keepdim=True)
        return (c.sum() - c.trace()) / 3

    loss.backward()
    step = torch.zeros_like(logits)
    step[0, 1] = 1e-6
    values = logits.detach()
    slope = (with_constant_weights(values + step) - with_constant_weights(values - step)) / 2e-6
    assert logits.grad[0, 1].item() == pytest.approx(slope.item(), rel=1e-6)


def test_the_outer_product_and_the_ramp_of_the_reversal():
    joint = outer_product(torch.tensor([[0.25, 0.75]]), torch.tensor([[1.0, 2.0, 3.0]]))
    assert joint.tolist() == [[0.25, 0.5, 0.75, 0.75, 1.5, 2.25]]
    term = ConditionalAlignment(2, 3, hidden=4)
    assert [term.reversal_weight(i) for i in (0, 1000)] == [0, pytest.approx((math.e - 1) / (math.e + 1))]


def test_cdan_reverses_the_gradient_of_the_embedding_and_keeps_that_of_the_classes():
    model, term, inputs = mic(), cdan(), batch()
    step = model.new_step(inputs)
    views = model.make_views(step, {"source", "target"})
    views.run(model.student.encode, ("source", "target"))
    embedding = views["source", "target"].features["embedding"]
    with EventStorage():
        loss = term.losses(model, views, step)["align/loss_class"]
    probs = model.student.classifier(embedding).softmax(dim=1).detach()
    logits = term.module((probs[:, :, None] * embedding[:, None, :]).reshape(8, -1))[:, 0]
    truth = torch.tensor([0.0] * 4 + [1.0] * 4)  # positive for the target
    expected = nn.functional.binary_cross_entropy_with_logits(logits, truth)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    weights = (model.student.bottleneck[0].weight, term.module[0].weight)
    ours, theirs = (torch.autograd.grad(x, weights, retain_graph=True) for x in (loss, expected))
    torch.testing.assert_close(ours[0], -theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])
    assert torch.autograd.grad(loss, model.student.classifier.weight, allow_unused=True) == (None,)


def test_the_teachers_confidence_weights_pseudo_labelled_images_and_true_labels_count_fully():
    student = classifier()
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    student.logits = lambda features: logits
    pseudo = PseudoClasses([torch.tensor(0), torch.tensor(0)], [torch.tensor(0.5), torch.tensor(0.75)])
    z = [2 - math.log(math.e**2 + 2), -math.log(math.e + 2), 3 - math.log(math.e**3 + 2)]  # log-probabilities
    view = View(None, {})
    for quality, q in (("teacher", (0.5, 0.75, 1)), ("none", (1, 1, 1))):
        loss = ImageClassTask(quality).consistency(student, view, pseudo, [torch.tensor(2)])["loss_class"]
        assert loss.item() == pytest.approx(-sum(a * b for a, b in zip(q, z)) / 3, rel=1e-6)


def test_pseudo_labels_are_the_teachers_most_probable_classes():
    model, inputs = mic(), batch()[4:]
    pseudo = model.pseudo_labels(inputs)["image_class"]
    with torch.no_grad():
        probs = [x["image_class"] for x in model.teacher(inputs)]
    assert [int(x) for x in pseudo.labels] == [int(p.argmax()) for p in probs]
    assert [float(x) for x in pseudo.confidence] == pytest.approx([float(p.max()) for p in probs])


# ------------------------------------------------------------------------------------------- SAM


def test_sam_moves_weights_by_rho_along_the_gradient_and_back():
    w = nn.Parameter(torch.tensor([3.0, 4.0, 0.1]))
    unused, values = nn.Parameter(torch.ones(2)), w.detach().clone()
    sam = SharpnessAware(0.5)
    sam.ascend((w[:2] ** 2).sum() / 2, [w, unused])  # g = (3, 4, 0), of length 5
    torch.testing.assert_close(w.detach() - values, torch.tensor([0.3, 0.4, 0.0]))
    assert (w - values).norm().item() == pytest.approx(0.5, rel=1e-6)
    assert w.grad is None and unused.tolist() == [1, 1]
    sam.restore()
    assert torch.equal(w, values)


def gradients(model):
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def test_a_step_with_sam_is_that_at_the_worst_weights_for_all_but_the_adversary():
    rho, inputs = 0.3, batch()
    model = mic(sharpness=SharpnessAware(rho))
    before = copy.deepcopy(model.student.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(losses_of(model, inputs).values()).backward()
    ours = gradients(model)
    optimizer.step()
    # the same by hand, without SharpnessAware: first the classification losses at the weights, ...
    reference = mic()
    reference.load_state_dict({**reference.state_dict(), **{f"student.{k}": v for k, v in before.items()}})
    losses = losses_of(reference, inputs)
    assert set(losses) == {"source/loss_class", "masked/loss_class", "target/loss_confusion", "align/loss_class"}
    sum(v for k, v in losses.items() if k != "align/loss_class").backward()
    g = gradients(reference.student)
    length = math.sqrt(sum(float((x.double() ** 2).sum()) for x in g.values()))
    with torch.no_grad():
        for k, p in reference.student.named_parameters():
            p += rho / length * g[k]
    # ... then all losses where this leads to
    reference.zero_grad()
    sum(losses_of(reference, inputs).values()).backward()
    expected = gradients(reference)
    assert ours.keys() == expected.keys()
    for k, value in ours.items():
        torch.testing.assert_close(
            value, expected[k], rtol=1e-4, atol=1e-5
        )  # before BatchNorm it is 0, except for rounding
    for k, p in model.student.named_parameters():  # the optimizer stepped from the weights themselves
        torch.testing.assert_close(p.detach(), before[k] - 0.1 * ours[f"student.{k}"], rtol=1e-6, atol=1e-7)
    model.update_teacher()
    assert model.steps == 1


def test_weights_come_back_where_a_step_is_left_out():
    model, inputs = mic(sharpness=SharpnessAware(0.3)), batch()
    before = copy.deepcopy(model.student.state_dict())
    losses_of(model, inputs)
    assert not torch.equal(model.student.classifier.weight, before["classifier.weight"])
    state = model.state_dict()
    assert all(torch.equal(state[f"student.{k}"], v) for k, v in before.items())
    losses_of(model, inputs)
    model.begin_step()
    assert all(torch.equal(v, before[k]) for k, v in model.student.state_dict().items())


# ------------------------------------------------------------------------------------------- the model


def test_masked_views_have_a_pass_of_their_own_so_that_batch_norm_does_not_mix_them():
    student, inputs = classifier("BN", batch_norm=True).train(), batch()
    images = student.preprocess_image([*inputs, *inputs[4:]])
    images.tensor[8:] = 0  # all is hidden
    views = Views(images, {"source": 4, "target": 4, "masked_target": 4})
    names = ("source", "target", "masked_target")
    whole, hidden = (student.encode(x)["embedding"] for x in (images.tensor[:8], images.tensor[8:]))
    views.run(student.encode, names, masked_apart=True)
    torch.testing.assert_close(views["source", "target"].features["embedding"], whole)
    torch.testing.assert_close(views["masked_target"].features["embedding"], hidden)
    torch.testing.assert_close(views["target"].features["embedding"], whole[4:])
    views.run(student.encode, names)
    assert not torch.allclose(views["source", "target"].features["embedding"], whole, rtol=1e-2)


def test_a_classifier_learns_and_predicts_probabilities():
    terms = [Supervised(), MaskedConsistency({"image_class": 1.0}), ClassConfusion()]
    model, inputs = mic(terms, SharpnessAware(0.02)), batch()
    assert find_tasks(model.student) == [ImageClassTask]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    history = []
    for i in range(100):
        optimizer.zero_grad()
        losses = losses_of(model, inputs, seed=i)
        sum(losses.values()).backward()
        optimizer.step()
        history.append(losses["source/loss_class"].item())
    assert history[-1] < 0.2 * history[0]
    model.eval()
    model.evaluate = "student"
    outputs = model(inputs)
    assert all(x["image_class"].sum().item() == pytest.approx(1, rel=1e-5) for x in outputs)
    assert [int(x["image_class"].argmax()) for x in outputs[:4]] == [0, 1, 2, 0]


def test_terms_need_target_images():
    step = Step(source=[{}], target=[])
    assert not ClassConfusion().active(step) and not cdan().active(step)


def small_vit(name="", weights=None, image_size=SIZE):
    return torchvision.models.VisionTransformer(image_size, 8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16)


def test_a_vit_gives_its_class_token_and_takes_torchvisions_weights(monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model", small_vit)  # one of torchvision's has 86 million weights
    original, backbone = small_vit().eval(), TorchvisionViT("vit_small", SIZE)
    model = ImageClassifier(
        backbone=backbone, num_classes=CLASSES, bottleneck=0, pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375], input_format="RGB",
    ).eval()  # fmt: skip
    named = rename_keys(original.state_dict(), model, "vit.pth")
    assert {f"backbone.{k}" for k in backbone.state_dict()} == named.keys(), "all but the heads"
    model.load_state_dict(named, strict=False)
    images = model.preprocess_image(batch()).tensor
    original.heads = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(model.encode(images)["embedding"], original(images))


def test_a_vit_refuses_other_sizes_and_models():
    with pytest.raises(ConfigError, match="multiple of its patch size"):
        TorchvisionViT("vit_b_16", 40)
    with pytest.raises(ConfigError, match="resnet18"):
        TorchvisionViT("resnet18", 32)


def test_the_model_of_a_config_has_the_terms_that_it_names(tmp_path):
    def image_class_cfg(*pairs):
        return load_config("", tiny_options(tmp_path, *pairs))

    model = build_model(image_class_cfg("MODEL.MIC.MCC.WEIGHT", 0.5, "MODEL.MIC.SAM.RHO", 0.1))
    assert [type(t) for t in model.terms] == [Supervised, MaskedConsistency, ClassConfusion]
    assert model.terms[2].weight == 0.5 and model.sharpness.rho == 0.1 and model.masked_apart
    assert model.student.classifier.out_features == CLASSES
    model = build_model(image_class_cfg("MODEL.MIC.CDAN.WEIGHT", 2.0, "MODEL.MIC.CDAN.FC_DIM", 8))
    term = model.terms[2]
    assert isinstance(term, ConditionalAlignment) and term.weight == 2 and model.sharpness is None
    assert term.module[0].in_features == CLASSES * 6
    assert any(k.startswith("cdan.") for k in model.state_dict())
    model = build_model(image_class_cfg("MODEL.MIC.MCC.WEIGHT", 0.5, "DATASETS.TRAIN", ()))  # no labels at all
    assert [type(t) for t in model.terms] == [MaskedConsistency, ClassConfusion]
