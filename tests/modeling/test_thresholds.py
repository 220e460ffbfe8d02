"""Thresholds that follow the teacher: against values by hand, brute force and simulated scores."""

import pytest
import torch
from detectron2.modeling import build_model

from helpers.models import source_input, target_input, tiny_cfg
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.errors import ConfigError
from mic_det.modeling.pseudo_labels import rejection_reasons, select_pseudo_boxes
from mic_det.modeling.thresholds import AdaptiveThresholds, share_matching_thresholds

# scores of two classes, in the middle of bins of 0.001
SCORES = torch.tensor([0.9505, 0.9005, 0.8505, 0.6005, 0.4005, 0.7005, 0.5005, 0.3505])
CLASSES = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
P = "MODEL__MIC__PSEUDO_BOXES__"


def updated(true_classes):
    thresholds = AdaptiveThresholds(0.8, 2, momentum=0.0)
    thresholds.observe(SCORES, CLASSES, torch.tensor(true_classes, dtype=torch.int64))
    thresholds.step()
    return thresholds.values.tolist()


@pytest.mark.parametrize("true_classes, by_hand", [
    ([0, 0, 1], [0.9, 0.7]),  # 3 detections are over 0.8: two of class 0 and one of class 1
    ([0, 1, 1], [0.9, 0.5]),  # one of class 0: 0.95, bounded; two of class 1
    ([1, 1, 1], [0.9, 0.35]),  # none of class 0: the upper bound
    ([0, 0, 0], [0.85, 0.9]),
    ([], [0.8, 0.8]),  # nothing is known of the source
])  # fmt: skip
def test_shares_of_the_source_by_hand(true_classes, by_hand):
    assert updated(true_classes) == pytest.approx(by_hand, abs=1e-6)


def test_a_class_that_the_teacher_hardly_finds_gets_the_lower_bound():
    thresholds = AdaptiveThresholds([0.3, 0.8], 2, momentum=0.0)
    true_classes = torch.tensor([1] * 9 + [0])  # of 5 detections over the start, 4.5 are to be of class 1
    thresholds.observe(SCORES, CLASSES, true_classes)
    thresholds.step()
    assert thresholds.values.tolist() == pytest.approx([0.9, 0.3], abs=1e-6)


def test_no_detection_over_the_start_leaves_the_thresholds_alone():
    thresholds = AdaptiveThresholds(0.8, 2, momentum=0.0)
    thresholds.observe(torch.tensor([0.5, 0.6]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    thresholds.step()
    assert thresholds.values.tolist() == pytest.approx([0.8, 0.8])


def test_scores_and_thresholds_forget_by_the_momentum():
    """Two steps by hand, with m = 0.5: the first step's detections count half at the second."""
    thresholds = AdaptiveThresholds(0.5, 1, bounds=(0.3, 0.9), momentum=0.5)
    found = []
    for scores in ([0.6005] * 4, [0.8005, 0.4005, 0.4005]):
        thresholds.observe(torch.tensor(scores), torch.zeros(len(scores), dtype=torch.int64), torch.tensor([0]))
        thresholds.step()
        found.append(thresholds.values.item())
    # 4 over the start: 0.6. Then 4 / 2 of 0.6 and 1 of 0.8 are over the start: the 3 best are over 0.6
    assert found == pytest.approx([(0.5 + 0.6) / 2, (0.55 + 0.6) / 2], abs=1e-6)
    assert thresholds.histogram.sum().item() == pytest.approx(4 / 2 + 3)


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_equal_brute_force(seed):
    g = torch.Generator().manual_seed(seed)
    bins, classes = 50, 4
    histogram = torch.randint(0, 4, (classes, bins), generator=g).float()
    shares = torch.rand(classes, generator=g)
    shares, total = shares / shares.sum(), torch.tensor(60.0)
    found = share_matching_thresholds(histogram, shares, total)
    for k in range(classes):
        edges = [b for b in range(bins) if histogram[k, b:].sum() >= shares[k] * total]
        assert found[k] == pytest.approx(max(edges, default=0) / bins)


def test_shares_of_pseudo_boxes_become_those_of_the_source():
    """The teacher is sure of class 0 and shy of class 2; as many objects are there of each as in the source."""
    true_shares, g = torch.tensor([0.5, 0.3, 0.2]), torch.Generator().manual_seed(0)
    thresholds = AdaptiveThresholds(0.8, 3, bounds=(0.2, 0.99), momentum=0.98)

    def step(n=40):
        classes = torch.multinomial(true_shares, n, replacement=True, generator=g)
        power = torch.tensor([0.3, 1.0, 3.0])[classes]  # u^0.3 is near 1, u^3 near 0
        return torch.rand(n, generator=g) ** power, classes

    before, after = torch.zeros(3), torch.zeros(3)
    for i in range(1200):
        scores, classes = step()
        if i >= 400:
            before += torch.bincount(classes[scores >= 0.8], minlength=3)
            after += torch.bincount(classes[scores >= thresholds.values[classes]], minlength=3)
        thresholds.observe(scores, classes, torch.multinomial(true_shares, 20, replacement=True, generator=g))
        thresholds.step()
    shares = (before / before.sum(), after / after.sum())
    assert (shares[0] - true_shares).abs().max() > 0.2, "a fixed threshold is far from them"
    assert (shares[1] - true_shares).abs().max() < 0.02
    assert after.sum().item() == pytest.approx(before.sum().item(), rel=0.03), "as many in all"


# ------------------------------------------------------------------------------------------------- in the model


ADAPT = {P + "ADAPT": "class_shares", P + "SCORE_THRESHOLD": 0.2, P + "ADAPT_BOUNDS": (0.0, 0.9)}


def model_of(**keys):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**keys)).train()


def train(model, steps, seed=0):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    torch.manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model([source_input(0), target_input(1), target_input(2)]).values()).backward()
        optimizer.step()


def test_current_thresholds_choose_boxes_and_are_logged(storage):
    model = model_of(**ADAPT)
    model.class_names = ("person", "car", "tram")
    task = model.task("boxes")
    train(model, 1)
    assert storage.latest()["pseudo/threshold_car"][0] == pytest.approx(0.2), "those that the step's boxes had"
    used = model.boxes.values.clone()
    assert (used - 0.2).abs().min() > 1e-4, "they follow"
    train(model, 1)
    logged = [storage.latest()[f"pseudo/threshold_{name}"][0] for name in model.class_names]
    assert logged == pytest.approx(used.tolist())

    with torch.no_grad():
        found = task.detections(model.teacher, model.teacher_view([target_input(1)]))[0]
    model.boxes.values.copy_(found.scores.median().expand(3))
    pseudo = model.pseudo_labels([target_input(1)])["boxes"].boxes[0]
    expected = select_pseudo_boxes(found, found.scores.median().item(), 0.5)
    assert 0 < len(expected) < len(found)
    assert torch.equal(pseudo.gt_boxes.tensor, expected.gt_boxes.tensor)
    reasons = rejection_reasons(found, **task.selection)
    assert [r == "score" for r in reasons] == (found.scores < found.scores.median()).tolist()


def test_predicting_and_a_step_that_is_not_taken_change_nothing():
    model = model_of(**ADAPT)
    before = {k: v.clone() for k, v in model.boxes.state_dict().items()}
    model([source_input(0), target_input(1)])  # a pass without an optimizer step, which may have failed
    model.pseudo_labels([target_input(1)])
    model.eval()([target_input(1)])
    assert all(torch.equal(v, before[k]) for k, v in model.boxes.state_dict().items())


def test_four_steps_equal_two_saved_loaded_and_two_more():
    keys = {**ADAPT, P + "SCORE_THRESHOLD": 0.05, P + "ADAPT_MOMENTUM": 0.5}
    whole, first = model_of(**keys), model_of(**keys)
    train(whole, 2)
    train(whole, 2, seed=1)
    train(first, 2)
    second = model_of(**keys)
    second.load_state_dict(first.state_dict())
    train(second, 2, seed=1)
    states = whole.state_dict(), second.state_dict()
    assert {"boxes.values", "boxes.histogram", "boxes.source_boxes"} <= states[0].keys()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert not torch.allclose(states[0]["boxes.values"], torch.tensor(0.05))


def test_two_micro_batches_are_one_step():
    """Thresholds move once an optimizer step, by the detections and true boxes of both."""
    keys = {**ADAPT, P + "ADAPT_MOMENTUM": 0.5, "MODEL__MIC__TEACHER__ALPHA": 0.0}
    whole, parts = model_of(**keys), model_of(**keys)
    for model, batches in ((whole, [(1, 2)]), (parts, [(1,), (2,)])):
        for seeds in batches:
            losses = model([source_input(x) for x in seeds] + [target_input(x) for x in seeds])
            (sum(losses.values()) * 0).backward()
        torch.optim.SGD(model.student.parameters(), lr=0.0).step()
    assert torch.equal(whole.boxes.histogram, parts.boxes.histogram) and whole.boxes.histogram.sum() > 20
    assert torch.equal(whole.boxes.values, parts.boxes.values)
    assert whole.boxes.source_boxes.tolist() == parts.boxes.source_boxes.tolist() == [2, 0, 2]


def test_a_new_training_begins_with_the_thresholds_of_the_config():
    model = model_of(**ADAPT)
    train(model, 2)
    model.restart()
    assert model.boxes.values.tolist() == pytest.approx([0.2] * 3)
    assert not model.boxes.histogram.any() and not model.boxes.source_boxes.any()


def test_checkpoints_with_and_without_thresholds_load_into_each_other(tmp_path):
    old, new = model_of(), model_of(**ADAPT)
    assert not any("histogram" in k for k in old.state_dict())
    train(new, 1)
    for model, name in ((old, "old"), (new, "new")):
        MICCheckpointer(model, str(tmp_path)).save(name)
    fresh = model_of(**ADAPT)
    MICCheckpointer(fresh).load(str(tmp_path / "old.pth"))
    assert fresh.boxes.values.tolist() == pytest.approx([0.2] * 3)
    MICCheckpointer(fresh).load(str(tmp_path / "new.pth"))
    assert torch.equal(fresh.boxes.histogram, new.boxes.histogram) and new.boxes.histogram.any()
    MICCheckpointer(model_of()).load(str(tmp_path / "new.pth"))
    other = model_of(**ADAPT, MODEL__ROI_HEADS__NUM_CLASSES=5)
    MICCheckpointer(other).load(str(tmp_path / "new.pth"))  # of another number of classes: they begin anew
    assert other.boxes.values.tolist() == pytest.approx([0.2] * 5)


def test_a_start_outside_the_bounds_is_refused():
    with pytest.raises(ConfigError, match="SCORE_THRESHOLD is 0.2, but .* starts there .*ADAPT_BOUNDS"):
        model_of(**{**ADAPT, P + "SCORE_THRESHOLD": 0.2, P + "ADAPT_BOUNDS": (0.3, 0.9)})
    with pytest.raises(ConfigError, match="SCORE_THRESHOLD_PER_CLASS is"):
        model_of(**{**ADAPT, P + "SCORE_THRESHOLD_PER_CLASS": (0.3, 0.95, 0.5)})
