"""Criteria of label maps and of image classes: rows by hand, and whole models against sums over single pixels."""

import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from helpers.data import disturb
from helpers.image_classes import tiny_options, write_class_folders
from helpers.models import tiny_cfg
from mic_det.engine.setup import load_config
from mic_det.evaluation.label_free import maps
from mic_det.evaluation.label_free.criteria import CRITERIA
from mic_det.evaluation.label_free.measure import Images, measure
from mic_det.evaluation.label_free.passes import masked, noisy_copy
from mic_det.evaluation.label_free.ranking import COMBINATION, combined

# two classes, two pixels side by side
FIRST = torch.tensor([[[0.9, 0.4]], [[0.1, 0.6]]])
SECOND = torch.tensor([[[0.8, 0.7]], [[0.2, 0.3]]])


def test_rows_by_hand():
    # the first pixel is class 0 for both (0.9 and 0.8), the second is class 1 (0.6) and class 0 (0.7)
    row = maps.agreement_row(FIRST, SECOND)
    assert row.tolist() == pytest.approx([2 * 0.8 / 2, 0, (0.9 + 0.8 + 0.7) / 2, 0.6 / 2])
    assert CRITERIA["flip_agreement"].value(row.numpy(), None) == pytest.approx((1.6 / 2.4 + 0) / 2)
    first, second = (-sum(p * math.log(p) for p in x) for x in ((0.9, 0.1), (0.4, 0.6)))
    assert maps.entropy_row(FIRST).tolist() == pytest.approx([(first + second) / 2 / math.log(2), 1])
    mass = maps.class_mass_row(FIRST)
    assert mass.tolist() == pytest.approx([0.65, 0.35, (first + second) / 2, 1])
    spread = -0.65 * math.log(0.65) - 0.35 * math.log(0.35)
    information = CRITERIA["information"].value(mass.numpy(), None)
    assert information == pytest.approx((spread - (first + second) / 2) / math.log(2))
    assert maps.score_row(FIRST).tolist() == pytest.approx([0.75, 1])
    kl = [0.9 * math.log(9 / 8) + 0.1 * math.log(1 / 2), 0.4 * math.log(4 / 7) + 0.6 * math.log(6 / 3)]
    assert maps.drift_row(FIRST, SECOND).tolist() == pytest.approx([sum(kl) / 2, 1], rel=1e-5)


def test_a_map_of_one_class_has_no_information_and_half_an_agreement():
    one = torch.stack([torch.ones(4, 6), torch.zeros(4, 6)])
    halves = one.clone()
    halves[:, :, 3:] = halves[:, :, 3:].flip(0)
    values = {}
    for name, x in (("one", one), ("halves", halves)):
        rows = {"information": maps.class_mass_row(x), "mask_agreement": maps.agreement_row(x, x)}
        values[name] = {k: CRITERIA[k].value(v.numpy(), None) for k, v in rows.items()}
    assert values["one"] == pytest.approx({"information": 0, "mask_agreement": 0.5})
    assert values["halves"] == pytest.approx({"information": 1, "mask_agreement": 1})
    assert combined(values["one"]) < combined(values["halves"])


def segmentor():
    keys = {"NAME": "SemSegFPNHead", "NUM_CLASSES": 5, "CONVS_DIM": 16, "NORM": ""}
    keys = {f"MODEL__SEM_SEG_HEAD__{k}": v for k, v in keys.items()}
    torch.manual_seed(0)
    model = disturb(build_model(tiny_cfg(MODEL__MIC__STUDENT="SemanticSegmentor", **keys)), 0).eval()
    disturb(model.student, 9)
    sharpen(model.teacher.sem_seg_head.predictor), sharpen(model.student.sem_seg_head.predictor)
    return model, 5


def classifier(root):
    write_class_folders(root, number=1)
    torch.manual_seed(0)
    model = disturb(build_model(load_config("", tiny_options(root))), 0).eval()
    disturb(model.student, 9)
    return model, 3


def sharpen(layer):
    """Without this, all pixels of an untrained model have one class."""
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.mul_(5)


def by_pixel(view, other, count):
    """(2 K,) sums of agreement, pixel by pixel."""
    agreed, total = np.zeros(count), np.zeros(count)
    for p, q in zip(view.reshape(count, -1).T, other.reshape(count, -1).T):
        a, b = p.argmax(), q.argmax()
        agreed[a] += 2 * min(p[a], q[b]) * (a == b)
        total[a] += p[a]
        total[b] += q[b]
    return np.concatenate([agreed, total]) / view[0].size


@pytest.mark.parametrize("kind", ["pixels", "image_class"])
def test_a_model_is_measured_by_its_views(kind, tmp_path):
    model, count = segmentor() if kind == "pixels" else classifier(tmp_path)
    generator = torch.Generator().manual_seed(5)
    images = [(n, (torch.rand(3, 16, 24, generator=generator) * 255).to(torch.uint8)) for n in ("a", "b")]
    found = measure(model, Images(images), count)
    assert set(found.values) == set(maps.ROWS) and len(found) == 2
    teacher, noisy = model.teacher, noisy_copy(model.teacher)

    def probs(net, image):
        (out,) = net([{"image": image}])
        return (out["image_class"] if kind == "image_class" else out["sem_seg"].softmax(dim=0)).detach().numpy()

    for i, (name, image) in enumerate(images):
        whole, flip = probs(teacher, image), probs(teacher, image.flip(-1))
        views = {
            "flip_agreement": flip[..., ::-1] if kind == "pixels" else flip,
            "mask_agreement": probs(teacher, masked(teacher, image, name)),
            "student_agreement": probs(model.student, image),
        }
        for criterion, other in views.items():
            shaped = [x.reshape(count, -1) for x in (whole, np.ascontiguousarray(other))]
            expected = by_pixel(*shaped, count)
            np.testing.assert_allclose(found.statistics[criterion][i], expected, atol=1e-6)
        other = probs(noisy, image)
        p, q = (x.clip(1e-8).astype(float) for x in (whole, other))
        kl = (p * np.log(p / q)).sum(axis=0).mean()
        np.testing.assert_allclose(found.statistics["weight_noise"][i], [kl, 1], rtol=1e-3, atol=1e-7)
    assert 0 < combined(found.values) < 1
    assert set(COMBINATION) & set(found.values) == {"flip_agreement", "mask_agreement", "information"}
    if kind == "pixels":  # the views differ, or this test would say little
        assert all(0 < found.values[f"{x}_agreement"] < 1 for x in ("flip", "mask", "student"))


def test_a_copy_of_the_teacher_says_nothing(tmp_path):
    model, count = classifier(tmp_path)
    model.student.load_state_dict(model.teacher.state_dict())
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    assert "student_agreement" not in measure(model, Images([("a", image)]), count).values
