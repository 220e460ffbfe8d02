"""Warnings of pseudo-labels that collapse: when, how often, and what they advise."""

import logging
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from mic_det.engine.monitor import PseudoLabelMonitor

NAMES = ("car", "person")
THRESHOLD = "MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD"


@pytest.fixture
def warned(caplog):
    """Run a watch over logged steps; returns (iteration, message) of each warning.

    A step is a list of micro-batches; a micro-batch is a dict of what MIC logs.
    """

    def run(watch, steps):
        caplog.clear()
        with EventStorage() as storage, caplog.at_level(logging.WARNING):
            watch.trainer = SimpleNamespace(storage=storage)
            for iteration, step in enumerate(steps):
                watch.trainer.iter = storage.iter = iteration
                for scalars in step:
                    storage.put_scalars(**scalars)
                watch.after_step()
        found = [r.getMessage().split(": ", 1) for r in caplog.records if r.levelno == logging.WARNING]
        return [(int(when.split()[-1]), text) for when, text in found]

    return run


def boxes(car=0.0, person=0.0, source=4.0):
    return {"pseudo/num_boxes": car + person, "pseudo/num_boxes_car": car, "pseudo/num_boxes_person": person,
            "source/num_boxes": source}  # fmt: skip


def only(**keys):
    """A watch with one kind of warning on."""
    return PseudoLabelMonitor(NAMES, **{"steps": 0, "one_class_steps": 0, "boxes_ratio": 0.0, **keys})


def test_no_pseudo_box_is_told_once_an_episode(warned):
    some, none = [boxes(1, 1)], [boxes()]
    found = warned(only(steps=3), [none] * 2 + [some] + [none] * 7 + [some] + [none] * 3)
    assert [i for i, _ in found] == [5, 13]
    assert THRESHOLD in found[0][1] and "3 steps" in found[0][1]


def test_a_box_in_any_micro_batch_counts(warned):
    assert warned(only(steps=2), [[boxes(), boxes(1)], [boxes(1), boxes()]] * 4) == []
    assert len(warned(only(steps=2), [[boxes(), boxes()]] * 4)) == 1


def test_steps_without_pseudo_labels_do_not_count(warned):
    burn_in = [{"source/num_boxes": 4.0}]
    assert warned(PseudoLabelMonitor(NAMES, steps=2, one_class_steps=2), [burn_in] * 9) == []
    # what was logged in an earlier step is not taken for this one's
    assert warned(only(steps=3), [[boxes()], burn_in] * 2) == []


def test_one_class_alone_is_told_with_its_name(warned):
    person, both, none = [boxes(person=2)], [boxes(1, 1)], [boxes()]
    watch = only(one_class_steps=3)
    found = warned(watch, [both, person, person, none, person, person, both] + [[boxes(car=1)], person] * 3)
    assert [i for i, _ in found] == [4]
    assert "'person'" in found[0][1] and THRESHOLD + "_PER_CLASS" in found[0][1]
    # two micro-batches of different classes are not one class
    assert warned(only(one_class_steps=2), [[boxes(car=1), boxes(person=1)]] * 4) == []


def test_a_set_of_one_class_has_nothing_to_collapse_to(warned):
    watch = PseudoLabelMonitor(("car",), steps=0, one_class_steps=2)
    assert warned(watch, [[boxes(car=1)]] * 5) == []


def test_far_more_boxes_than_the_source_has(warned):
    watch = only(steps=4, boxes_ratio=3.0)
    usual, many = [boxes(5, 5)], [boxes(10, 20)]
    # means of 4 steps: above 12 as soon as one of them has 30 boxes: (3 x 10 + 30) / 4 = 15
    found = warned(watch, [usual] * 6 + [many] * 12 + [usual] * 10 + [many])
    assert [i for i, _ in found] == [6, 28]
    assert "15.0 pseudo-boxes" in found[0][1] and "3.8 times" in found[0][1] and "MAX_PER_IMAGE" in found[0][1]
    # one peak that the mean does not notice
    assert warned(only(steps=4, boxes_ratio=3.0), [usual] * 4 + [[boxes(17)]] + [usual] * 4) == []
    # a source without boxes says nothing about how many there should be
    assert warned(only(steps=2, boxes_ratio=3.0), [[boxes(9, 9, source=0.0)]] * 5) == []


def test_pixels_that_nobody_is_sure_of(warned):
    watch = PseudoLabelMonitor((), steps=3, pixel_quality=0.01)
    low, fine = [{"pseudo/pixel_quality": 0.009}], [{"pseudo/pixel_quality": 0.02}]
    found = warned(watch, [low] * 2 + [fine] + [low] * 8 + [fine] + [low] * 3)
    assert [i for i, _ in found] == [5, 14]
    assert "1.0%" in found[0][1] and "MODEL.MIC.SEM_SEG.PIXEL_THRESHOLD" in found[0][1]


def test_zero_switches_all_off(warned):
    watch = PseudoLabelMonitor(NAMES, steps=0, one_class_steps=0, boxes_ratio=1.0, pixel_quality=0.5)
    step = [{**boxes(car=99), "pseudo/pixel_quality": 0.0}]
    assert warned(watch, [step] * 9 + [[boxes()]] * 9) == []
