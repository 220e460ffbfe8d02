"""The step without source images, with labelled target images, and with another labeller's boxes."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from helpers.models import ALL_BOXES, NO_BOXES, random_image, some_boxes, source_input, target_input, tiny_cfg
from mic_det.data.labeller import LABELLER
from mic_det.engine.statistics import bn_layers, reestimate

NO_CHANGE = {"MODEL__MIC__MASK__RATIO": 0.0}
NO_CHANGE.update({f"MODEL__MIC__STRONG_AUG__{name}_PROB": 0.0 for name in ("JITTER", "BLUR")})
FREE = {"DATASETS__TARGET": ("t",), "MODEL__MIC__CONSISTENCY__RPN_BOX_REG_WEIGHT": 1.0,
        "MODEL__MIC__CONSISTENCY__ROI_BOX_REG_WEIGHT": 1.0}  # fmt: skip
DENSE = {
    "MODEL__MIC__STUDENT": "RetinaNet", "MODEL__BACKBONE__NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL__FPN__IN_FEATURES": ["res3", "res4", "res5"], "MODEL__RESNETS__OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL__RETINANET__NUM_CLASSES": 3, "MODEL__RETINANET__NUM_CONVS": 1, "MODEL__RETINANET__PRIOR_PROB": 0.3,
    "MODEL__RETINANET__SCORE_THRESH_TEST": 0.01, "MODEL__ANCHOR_GENERATOR__SIZES": [[16], [32], [64], [96], [128]],
}  # fmt: skip
PIXELS = {
    "MODEL__MIC__STUDENT": "SemanticSegmentor", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 4, "MODEL__SEM_SEG_HEAD__NORM": "",
    "MODEL__SEM_SEG_HEAD__CONVS_DIM": 8, "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["p2", "p3", "p4", "p5"],
}  # fmt: skip


def model_of(**keys):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**keys)).train()


def losses_of(model, batch, seed=0):
    torch.manual_seed(seed)
    with EventStorage() as storage:
        losses = model(batch)
        return losses, storage


@pytest.mark.parametrize("student", [{}, {**DENSE}, {**PIXELS}], ids=["rcnn", "retinanet", "pixels"])
@pytest.mark.parametrize("boxes", [ALL_BOXES, NO_BOXES], ids=["all", "none"])
def test_target_images_alone_have_the_masked_loss_alone_and_a_gradient(student, boxes):
    model = model_of(**FREE, **student, **boxes)
    losses, _ = losses_of(model, [target_input(1), target_input(2)])
    assert losses and all(k.startswith("masked/") for k in losses)
    sum(losses.values()).backward()  # a step without a pseudo-box has one, too: an error otherwise
    grads = [p.grad for p in model.student.parameters() if p.grad is not None]
    size = sum(g.abs().sum() for g in grads)
    assert grads and (size > 0 if boxes is ALL_BOXES else student == PIXELS or size == 0)
    assert not any(torch.isnan(g).any() for g in grads)


def test_it_is_the_masked_loss_of_a_step_with_source_images():
    """The source adds its own loss, and changes nothing of L_M."""
    keys = {**ALL_BOXES, **NO_CHANGE, "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 512}  # all proposals: nothing is drawn
    keys["MODEL__RPN__BATCH_SIZE_PER_IMAGE"] = 20000
    free, with_source = (
        model_of(**FREE, **keys),
        model_of(**{k: v for k, v in FREE.items() if "TARGET" not in k}, **keys),
    )
    with_source.load_state_dict(free.state_dict())
    alone, _ = losses_of(free, [target_input(1)])
    both, _ = losses_of(with_source, [source_input(), target_input(1)])
    assert any(k.startswith("source/") for k in both)
    for name, value in alone.items():
        assert torch.allclose(value, both[name], rtol=1e-4, atol=1e-6), name


def test_batches_without_what_the_terms_need_are_refused():
    with pytest.raises(ValueError, match="at least one target image.*IMS_PER_BATCH_TARGET"):
        model_of(**FREE)([])
    with pytest.raises(ValueError, match="at least one source image"):
        model_of()([target_input()])


def labelled(seed=0, classes=(0, 2)):
    return {"image": random_image(seed=seed), "instances": some_boxes(classes=classes), "domain": "labelled_target"}


@pytest.mark.parametrize("student", [{}, DENSE], ids=["rcnn", "retinanet"])
def test_a_labelled_target_image_has_the_supervised_loss_of_a_source_image(student):
    model = model_of(**student)
    as_source, _ = losses_of(copy.deepcopy(model), [source_input(5), source_input(6, classes=(1,))])
    as_target, storage = losses_of(copy.deepcopy(model), [source_input(5), labelled(6, (1,))])
    alone, _ = losses_of(copy.deepcopy(model), [labelled(5), labelled(6, (1,))])
    assert as_source.keys() <= as_target.keys()
    for name in (k for k in as_source if k.startswith("source/")):
        assert torch.allclose(as_source[name], as_target[name]) and torch.allclose(as_source[name], alone[name]), name
    assert storage.latest()["source/num_boxes"][0] == 1.5


def test_labelled_images_are_in_no_other_loss():
    """The masked loss of the target's unlabelled image is what it is without them, and alignment knows two domains."""
    keys = {**ALL_BOXES, "MODEL__MIC__ALIGNMENT__IMAGE__ENABLED": True, "MODEL__MIC__ALIGNMENT__IMAGE__CHANNELS": 8}
    model, seen = model_of(**keys), []
    model.alignment.register_forward_hook(lambda module, args, output: seen.append(args))
    losses_of(model, [source_input(1), target_input(2), labelled(3)])
    sizes, _, is_target = seen[0][:3]
    assert len(sizes) == 2 and is_target == [False, True]


def with_boxes(x, boxes, scores, classes):
    found = Instances(tuple(x["image"].shape[-2:]))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.int64)
    return {**x, LABELLER: found}


LABELLED = {"MODEL__MIC__LABELLER__JSON": "x.json", "MODEL__MIC__LABELLER__FUSE": "replace"}


def test_pseudo_boxes_are_those_of_the_labeller_in_its_steps():
    model = model_of(**NO_BOXES, **LABELLED, MODEL__MIC__LABELLER__UNTIL_STEP=2)
    model.task("boxes").select["score_threshold"] = 0.8
    box = [10.0, 8.0, 40.0, 50.0]
    x = with_boxes(target_input(), [box, [50.0, 5.0, 80.0, 30.0]], [0.9, 0.5], [2, 0])
    found = []
    for step in range(3):
        model.steps = step
        with EventStorage():
            found.append(model.teach([x])["boxes"].boxes[0])
    for pseudo in found[:2]:
        assert pseudo.gt_boxes.tensor.tolist() == [box] and pseudo.gt_classes.tolist() == [2]
        assert pseudo.scores.tolist() == pytest.approx([0.9]), "the weight of the region"
    own = model.pseudo_labels([{k: v for k, v in x.items() if k != LABELLER}])["boxes"].boxes[0]
    assert found[2].gt_boxes.tensor.tolist() == own.gt_boxes.tensor.tolist(), "then the teacher's"


@pytest.mark.parametrize("student", [{}, DENSE], ids=["rcnn", "retinanet"])
def test_boxes_of_the_labeller_reach_the_loss(student):
    model = model_of(**student, **NO_BOXES, **LABELLED)
    model.task("boxes").select["score_threshold"] = 0.8
    batch = [source_input(), with_boxes(target_input(), [[10.0, 8.0, 40.0, 50.0]], [0.9], [2])]
    losses, storage = losses_of(model, batch)
    assert sum(v for k, v in losses.items() if k.startswith("masked/")) > 0
    assert storage.latest()["pseudo/num_boxes"][0] == 1
    none, _ = losses_of(model, [source_input(), with_boxes(target_input(), [], [], [])])
    assert sum(v for k, v in none.items() if k.startswith("masked/")) == 0


def test_a_training_image_without_its_boxes_is_an_error_and_evaluation_needs_none():
    model = model_of(**ALL_BOXES, **LABELLED)
    with pytest.raises(ValueError, match='no "labeller".*DomainMapper'):
        losses_of(model, [source_input(), target_input()])
    assert "boxes" in model.pseudo_labels([target_input()])


def test_statistics_are_those_of_the_target_images():
    """Of the stem's layer by hand: mean and variance of what its convolution puts out, over batches of two images."""
    model = model_of(**FREE, **ALL_BOXES, MODEL__RESNETS__NORM="BN", MODEL__BACKBONE__FREEZE_AT=0)
    model.eval()
    batches = [[target_input(1), target_input(2)], [target_input(3), target_input(4)]]
    stem = model.teacher.backbone.bottom_up.stem.conv1
    outputs = []
    for batch in batches:
        images = model.teacher.preprocess_image(batch).tensor
        outputs.append(nn.functional.conv2d(images, stem.weight, None, stem.stride, stem.padding).double())
    mean = torch.stack([x.mean(dim=(0, 2, 3)) for x in outputs]).mean(dim=0)
    variance = torch.stack([x.var(dim=(0, 2, 3), unbiased=True) for x in outputs]).mean(dim=0)
    momentum = stem.norm.momentum
    with EventStorage():
        assert reestimate(model, batches) == 4
    for own in (model.teacher, model.student):
        norm = own.backbone.bottom_up.stem.conv1.norm
        assert torch.allclose(norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
        assert torch.allclose(norm.running_var.double(), variance, rtol=1e-4)
        assert norm.momentum == momentum and not norm.training
    assert len(bn_layers(model.teacher)) > 10
    assert not bn_layers(model_of(**FREE).teacher), "FrozenBN has none"
