"""Two domains of the very same images: nothing that a domain classifier sees may tell them apart."""

import logging

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from conftest import ALL_BOXES, source_input, target_input, tiny_cfg

ALIGN = "MODEL__MIC__ALIGNMENT__"
IMAGE = {ALIGN + "IMAGE__ENABLED": True, ALIGN + "IMAGE__CHANNELS": 8}
NO_CONSISTENCY = {"MODEL__MIC__CONSISTENCY__WEIGHT": 0.0}
OPTIONS = {
    "default": {},
    "strong source views": {"MODEL__MIC__STRONG_AUG__ON_SOURCE": True},
    "source masked too": {"MODEL__MIC__MASK__DOMAINS": "both"},
    "an old config's VIEW masked": {ALIGN + "VIEW": "masked"},
    "an old config's VIEW both": {ALIGN + "VIEW": "both"},
}


class Negative(torch.nn.Module):
    """A strong view that is the same each time."""

    def forward(self, image):
        return 255 - image.float()


@pytest.mark.parametrize("option", OPTIONS)
def test_image_classifiers_are_right_as_often_as_not(option, storage):
    """Whatever a classifier says of a position, it says in both domains: it is right in one of them."""
    model = build_model(tiny_cfg(**ALL_BOXES, **IMAGE, **OPTIONS[option])).train()
    model.strong_view = Negative()
    model([source_input(0), source_input(1), target_input(0), target_input(1)])
    found = [v for k, (v, _) in storage.latest().items() if k.startswith("align/accuracy_image_")]
    assert found == pytest.approx([0.5] * 5, abs=0.002)


@pytest.mark.parametrize("view", ["masked", "both"])
def test_a_view_of_earlier_versions_is_told_what_becomes_of_it(view, caplog):
    with caplog.at_level(logging.WARNING, "mic_det"):
        build_model(tiny_cfg(**IMAGE, **{ALIGN + "VIEW": view}))
    assert "MODEL.MIC.ALIGNMENT.VIEW" in caplog.text and "'whole'" in caplog.text
    caplog.clear()
    build_model(tiny_cfg(**IMAGE))
    build_model(tiny_cfg(**{ALIGN + "VIEW": view}))  # nothing is aligned
    assert not caplog.text


def street(seed, size=(64, 96)):
    """An image of noise with five bright objects, and where they are."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 100, (3, *size), dtype=torch.uint8, generator=generator)
    boxes = []
    for _ in range(5):
        x, y = (int(torch.randint(0, n, (), generator=generator)) for n in (size[1] - 12, size[0] - 10))
        image[:, y : y + 10, x : x + 12] = 230
        boxes.append([x, y, x + 12, y + 10])
    truth = Instances(size, gt_boxes=Boxes(torch.tensor(boxes).float()), gt_classes=torch.arange(5) % 3)
    return image, truth


def accuracy_on_regions(regions, steps=80):
    """Balanced accuracy, on the second half of the regions, of the best linear classifier of the first half's."""
    keys = {ALIGN + "INSTANCE__ENABLED": True, ALIGN + "INSTANCE__REGIONS": regions, "MODEL__ROI_BOX_HEAD__FC_DIM": 32}
    model = build_model(tiny_cfg(**keys, **NO_CONSISTENCY)).train()
    seen = []
    model.alignment.register_forward_pre_hook(lambda module, args: seen.append(args[2:4]))
    with torch.no_grad():
        for step in range(steps):
            image, truth = street(step)
            source = {"image": image, "instances": truth, "domain": "source"}
            model([source, {"image": image, "domain": "target"}])
    x = torch.stack([r.features for _, r in seen]).double()  # (steps, 2 * 16, D), the source's first
    assert x.shape[:2] == (steps, 32) and all(is_target == [False, True] for is_target, _ in seen)
    x = torch.cat([x, torch.ones_like(x[..., :1])], dim=2)
    y = torch.tensor([-1.0] * 16 + [1.0] * 16).double().expand(steps, 32)
    half = steps // 2
    weights = torch.linalg.lstsq(x[:half].flatten(0, 1), y[:half].flatten()[:, None], driver="gelsd").solution
    return ((x[half:] @ weights)[..., 0].sign() == y[half:]).double().mean().item()


def test_region_classifiers_learn_nothing_from_regions_that_are_drawn_alike():
    # 40 x 32 regions, half of them right: a standard deviation of 0.5 / sqrt(1280) = 0.014
    assert accuracy_on_regions("same") == pytest.approx(0.5, abs=3 * 0.014)


def test_regions_drawn_as_published_tell_identical_domains_apart():
    """The test above can see the difference that it is there for: a quarter of the source's regions are objects."""
    assert accuracy_on_regions("published") > 0.5 + 3 * 0.014
