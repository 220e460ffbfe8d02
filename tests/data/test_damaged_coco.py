"""A COCO file that says the same in another way gives the same AP; one that cannot be meant is refused by its entry.

Reported cases, by their kind here: annotation ids of 0 and of text, image ids of text and of two types, no area, crowds
everywhere, polygons that are empty or one flat list, a byte order mark, classes in another order, a class twice, file
names with back-slashes, boxes in [0, 1]. Masks, targets and reports are in test_coco_reports.py, the programs'
order of classes in tools/test_class_order.py.
"""

import copy

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.clean_set import CleanSet, check
from helpers.coco_damage import REFUSED, SAME
from helpers.data import forget_registered_sets
from mic_det.data.classes import expect_classes
from mic_det.errors import DataError


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return CleanSet(tmp_path_factory.mktemp("clean"))


def damage(clean, kinds, seed=0, bom=False):
    """Write ``test.json``; returns its content, and for each refusal in it the parts of its message."""
    content, rng = copy.deepcopy(clean.content), np.random.default_rng(seed)
    expected = [parts for k in kinds if (parts := {**SAME, **REFUSED}[k](content, rng)) and k in REFUSED]
    clean.write("test.json", content, bom)
    return content, expected


def test_the_clean_file_itself(clean):
    with forget_registered_sets():
        content, _ = damage(clean, [])
        lines = check(clean.config())
        assert len(lines) == 1, "nothing is repaired, so nothing is reported"
        clean.check_same_numbers(content)


@pytest.mark.parametrize("kind", SAME)
def test_each_way_alone_gives_the_same_ap(clean, kind):
    with forget_registered_sets():
        content, _ = damage(clean, [kind])
        check(clean.config())
        clean.check_same_numbers(content)


def test_a_byte_order_mark(clean):
    with forget_registered_sets():
        content, _ = damage(clean, [], bom=True)
        check(clean.config())
        clean.check_same_numbers(content)


@pytest.mark.parametrize("kind", REFUSED)
def test_each_fault_alone_is_refused_by_its_entry(clean, kind):
    with forget_registered_sets():
        _, (parts,) = damage(clean, [kind])
        with pytest.raises(DataError) as caught:
            check(clean.config())
    message = str(caught.value)
    assert "\n" not in message and all(p in message for p in parts), (parts, message)
    assert "test.json" in message or "damaged" in message


def test_a_set_that_detectron2_registered_is_read_in_the_same_way(clean):
    """Its own loader drops boxes without a usable polygon; AP is of all boxes all the same."""
    with forget_registered_sets():
        damage(clean, ["polygon empty", "annotation ids from 0", "no area"])
        register_coco_instances("damaged", {}, str(clean.folder / "test.json"), str(clean.folder / "images"))
        assert sum(len(d["annotations"]) for d in DatasetCatalog.get("damaged")) < 25
        for fast in (True, False):
            numbers, _ = clean.evaluate(fast)
            for key, value in clean.expected().items():
                assert abs(numbers[key] - value) < 1e-4, (key, fast)


def test_a_set_of_ones_own_code_in_another_order_is_refused(clean):
    with forget_registered_sets():
        damage(clean, ["classes in another order"])
        register_coco_instances("damaged", {}, str(clean.folder / "test.json"), str(clean.folder / "images"))
        expect_classes(classes=["car", "bus", "traffic light"])
        with pytest.raises(DataError, match="damaged has the classes .*the model has.*DATASETS.CUSTOM"):
            clean.evaluate(fast=True)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.sampled_from(sorted(SAME)), unique=True, max_size=8),
    fault=st.none() | st.none() | st.sampled_from(sorted(REFUSED)),
    seed=st.integers(0, 99),
    bom=st.booleans(),
)
def test_random_combinations(clean, kinds, fault, seed, bom):
    """Either the AP of the clean file, with both evaluators, or an error that names the entry."""
    with forget_registered_sets():
        content, expected = damage(clean, [*kinds, *([fault] if fault else [])], seed, bom)
        if not expected:
            check(clean.config())
            clean.check_same_numbers(content)
            return
        with pytest.raises(DataError) as caught:
            check(clean.config())
        assert all(p in str(caught.value) for p in expected[0]), (expected, str(caught.value))
