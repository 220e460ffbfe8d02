"""Matched class shares: offsets against the formula, averages by hand, pseudo-labels of a class that another takes."""

import copy
import math

import pytest
import torch
from detectron2.modeling import build_model

from helpers.models import source_input, target_input, tiny_cfg
from mic_det.modeling.class_shares import ClassShares
from mic_det.modeling.pixel_labels import SemSegSettings, teacher_pixel_labels

SEGMENTOR = {
    "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5, "MODEL__SEM_SEG_HEAD__CONVS_DIM": 16, "MODEL__SEM_SEG_HEAD__NORM": "",
    "MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 255, "MODEL__MIC__STUDENT": "SemanticSegmentor",
}  # fmt: skip


def labels(*counts):
    """A label map (1, W) with this number of pixels of 0, 1, ...; the last number is of ignored pixels."""
    values = [*range(len(counts) - 1), 255]
    return torch.cat([torch.full((n,), v) for v, n in zip(values, counts)])[None]


def test_offsets_are_the_logarithm_of_the_ratio_of_shares():
    shares = ClassShares(3, strength=0.5, momentum=0.9)
    assert (shares.offsets() == 0).all(), "nothing has been observed"
    shares.observe(torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]]), [labels(2, 6, 0, 5), labels(2, 0, 10, 1)])
    assert (shares.offsets() == 0).all(), "not before the optimizer's step"
    shares.step()
    # source: 4, 6 and 10 of 20 labelled pixels; target: 0.6, 0.3 and 0.1; weight of one observation: 1 - 0.9
    expected = [0.5 * 0.1 * math.log(s / t) for s, t in ((0.2, 0.6), (0.3, 0.3), (0.5, 0.1))]
    assert shares.offsets().tolist() == pytest.approx(expected, abs=1e-6)


def test_averages_over_the_steps():
    """As the weighted means over all observations, the last one with weight 1, the one before with 0.8, and so on."""
    generator = torch.Generator().manual_seed(0)
    shares, observed = ClassShares(3, momentum=0.8), []
    for _ in range(7):
        target = torch.rand(2, 3, generator=generator).softmax(dim=1)
        source = torch.randint(0, 3, (4, 5), generator=generator)
        shares.observe(target, [source])
        shares.step()
        observed.append((torch.bincount(source.flatten(), minlength=3) / 20, target.mean(dim=0)))
    weights = [0.8**i for i in reversed(range(7))]
    for found, values in zip((shares.source, shares.target), zip(*observed)):
        torch.testing.assert_close(found, sum(w * v for w, v in zip(weights, values)) / sum(weights))
    assert shares.known.item() == pytest.approx(1 - 0.8**7)


def test_a_class_without_source_pixels_keeps_its_logits_and_offsets_are_bounded():
    shares = ClassShares(3, momentum=0.0)
    shares.observe(torch.tensor([[1e-9, 0.5, 0.5]]), [labels(5, 5, 0, 0)])
    shares.step()
    assert shares.offsets().tolist() == pytest.approx([ClassShares.LARGEST, 0.0, 0.0])
    shares.reset()
    assert (shares.offsets() == 0).all() and shares.known == 0


def test_a_step_without_observations_and_an_observation_without_a_step_change_nothing():
    shares = ClassShares(2)
    before = copy.deepcopy(shares.state_dict())
    shares.step()
    shares.observe(torch.tensor([[0.5, 0.5]]), [labels(1, 2, 0)])
    for name, value in shares.state_dict().items():
        assert torch.equal(value, before[name])


def test_pseudo_labels_of_a_class_that_another_one_takes():
    """A pixel with probabilities (0.6, 0.4) where the teacher sees the first class three times too often."""
    shares = ClassShares(2, momentum=0.0)
    shares.observe(torch.tensor([[0.75, 0.25]]), [labels(1, 3, 0)])
    shares.step()
    logits = torch.log(torch.tensor([0.6, 0.4])).view(1, 2, 1, 1).expand(1, 2, 4, 6)

    def head(features):
        return logits, {}

    sizes = [(4, 6)]
    plain, _, nothing = teacher_pixel_labels(head, None, sizes, sizes, SemSegSettings(threshold=0.85))
    found, quality, means = teacher_pixel_labels(
        head, None, sizes, sizes, SemSegSettings(threshold=0.85), shares=shares
    )
    assert (plain[0].labels == 0).all() and nothing == []
    assert (found[0].labels == 1).all()
    # 0.4 * 3 against 0.6 / 3: 6 to 1
    assert quality[0] == 1 and 6 / 7 > 0.85
    assert means[0].tolist() == pytest.approx([0.6, 0.4]), "without offsets"


def test_the_training_step_observes_both_domains():
    torch.manual_seed(0)
    model = build_model(tiny_cfg(**SEGMENTOR, MODEL__MIC__SEM_SEG__MATCH_SOURCE_SHARES=1.0)).train()
    truth = torch.zeros(64, 96, dtype=torch.int64)
    truth[:, 24:] = 3
    model([{**source_input(), "sem_seg": truth}, target_input()])
    shares = model.pixels
    assert shares.known == 0
    model.after_optimizer_step()
    assert shares.source.tolist() == pytest.approx([0.25, 0, 0, 0.75, 0])
    mean = model.teacher([target_input()])[0]["sem_seg"].softmax(dim=0).mean(dim=(1, 2))
    torch.testing.assert_close(shares.target, mean, atol=2e-3, rtol=0)  # the teacher has changed by one update
    assert "pixels.source" in model.state_dict()
    model.restart()
    assert shares.known == 0


def test_without_the_key_there_is_no_state():
    torch.manual_seed(0)
    assert not any(k.startswith("pixels.") for k in build_model(tiny_cfg(**SEGMENTOR)).state_dict())
