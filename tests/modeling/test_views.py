"""Named views: which terms go through the student together, and whose features a term gets."""

import pytest
import torch
from detectron2.structures import ImageList

from mic_det.modeling.views import Views

COUNTS = {"source": 2, "target": 0, "masked_target": 2, "masked_source": 1, "mixed_target": 3}
ROWS = {"source": [0, 1], "masked_target": [2, 3], "masked_source": [4], "mixed_target": [5, 6, 7]}


@pytest.fixture
def views():
    return Views(ImageList(torch.randn(8, 3, 8, 8), [(8, i + 1) for i in range(8)]), COUNTS)


def summary(parts):
    return [("".join(part.terms), part.names) for part in parts]


def test_terms_that_share_views_go_together_in_the_order_of_the_views(views):
    wanted = [("a", ("source",)), ("b", ("masked_target", "masked_source")), ("c", ("mixed_target",))]
    assert summary(views.parts(wanted, merged=False)) == [
        ("a", ("source",)), ("b", ("masked_target", "masked_source")), ("c", ("mixed_target",)),
    ]  # fmt: skip
    assert summary(views.parts(wanted)) == [("abc", ("source", "masked_target", "masked_source", "mixed_target"))]
    # d links a and c, though b stands between them
    wanted = [("c", ("mixed_target",)), ("b", ("masked_source",)), ("a", ("source", "target")),
              ("d", ("source", "mixed_target"))]  # fmt: skip
    assert summary(views.parts(wanted, merged=False)) == [
        ("cad", ("source", "mixed_target")), ("b", ("masked_source",)),
    ]  # fmt: skip


def test_a_term_without_any_image_is_left_out(views):
    wanted = [("a", ("source",)), ("b", ("target",))]
    assert summary(views.parts(wanted)) == summary(views.parts(wanted, merged=False)) == [("a", ("source",))]


@pytest.mark.parametrize("names", [("source",), ("source", "mixed_target"), tuple(ROWS)])
def test_features_of_a_name_are_its_rows_with_the_gradient_of_its_rows(views, names):
    seen = []

    def backbone(images):
        seen.append(images)
        maps = {"p2": torch.cat([images, images[:, :1]], dim=1).requires_grad_(), "p3": images[:, :2, ::2]}
        seen.append(maps["p2"])
        return maps

    views.run(backbone, names)
    rows = [row for name in names for row in ROWS[name]]
    images, p2 = seen
    assert torch.equal(images, views.images.tensor[rows])
    for chosen in [(x,) for x in names] + [names, names[-2:]]:
        own = [row for name in chosen for row in ROWS[name]]
        view = views[chosen[0]] if len(chosen) == 1 else views[chosen]
        assert torch.equal(view.images.tensor, views.images.tensor[own])
        assert view.images.image_sizes == [(8, i + 1) for i in own]
        at = [rows.index(row) for row in own]
        assert torch.equal(view.features["p2"], p2[at]) and view.features["p3"].shape == (len(own), 2, 4, 8)
        weight = torch.randn_like(view.features["p2"])
        p2.grad = None
        (view.features["p2"] * weight).sum().backward(retain_graph=True)
        expected = torch.zeros_like(p2)
        expected[at] = weight
        assert torch.equal(p2.grad, expected)


def test_names_without_images_do_not_count(views):
    views.run(lambda x: {"p2": x}, ("source", "masked_target"))
    assert views["source", "target"] is views["source"]
    assert "target" not in views and "mixed_target" in views
    assert len(views.images_of("target")) == 0 and len(views.images_of("target", "masked_source")) == 1


def test_masking_images_of_views_masks_the_batch(views):
    views.images_of("masked_target", "masked_source").tensor.zero_()
    assert (views.images.tensor[2:5] == 0).all() and (views.images.tensor[[0, 1, 5, 6, 7]] != 0).all()
