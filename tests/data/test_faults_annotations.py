"""Damaged COCO files: training and the check of data sets name file and entry."""

import json

import pytest

from helpers.faults import check_problem, check_told, prepare, problems


def without(*path):
    """Remove the last key of a path."""

    def change(content):
        node = content
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]

    return change


def having(*path, to):
    """Set what lies at a path."""

    def change(content):
        node = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to

    return change


FIRST_BOX = ("annotations", 0, "bbox")
ENTRIES = {
    "a list": (lambda c: [c], "lists no images"),
    "a number": (lambda c: 3, "lists no images"),
    "no images": (without("images"), "lists no images"),
    "images empty": (having("images", to=[]), "lists no images"),
    "images a mapping": (having("images", to={"a": 1}), "lists no images"),
    "an image that is text": (having("images", 0, to="a.png"), "'images'"),
    "an image without a name": (without("images", 0, "file_name"), "without 'file_name'"),
    "an image without an id": (without("images", 0, "id"), "without 'id'"),
    "an image without a width": (without("images", 0, "width"), "without 'width'"),
    "a width that is text": (having("images", 0, "width", to="96"), "'96'"),
    "a height of 0": (having("images", 0, "height", to=0), "height"),
    "a name that is a number": (having("images", 0, "file_name", to=7), "file_name"),
    "annotations a mapping": (having("annotations", to={"a": 1}), "annotations"),
    "annotations null": (having("annotations", to=None), "annotations"),
    "an annotation that is a number": (having("annotations", 0, to=3), "'annotations'"),
    "no bbox": (without(*FIRST_BOX), "without 'bbox'"),
    "a bbox of three": (having(*FIRST_BOX, to=[1, 2, 3]), "annotation 1 "),
    "a bbox of texts": (having(*FIRST_BOX, to=["1", "2", "3", "4"]), "annotation 1 "),
    "a bbox null": (having(*FIRST_BOX, to=None), "annotation 1 "),
    "no area": (having(*FIRST_BOX, to=[5, 5, 0, 9]), "without area"),
    "a negative width": (having(*FIRST_BOX, to=[20, 5, -9, 9]), "without area"),
    "NaN": (having(*FIRST_BOX, to=[1, 2, float("nan"), 4]), "annotation 1 "),
    "infinity": (having(*FIRST_BOX, to=[1, 2, float("inf"), 4]), "annotation 1 "),
    "outside": (having(*FIRST_BOX, to=[500, 5, 9, 9]), "outside the image"),
    "an unknown category": (having("annotations", 0, "category_id", to=77), "category 77"),
    "an unknown image": (having("annotations", 0, "image_id", to=77), "image 77"),
    "an image id that is a list": (having("annotations", 0, "image_id", to=[1]), "'image_id' is [1]"),
    "an image's id twice": (having("images", 1, "id", to=1), "id 1 "),
    "a category's id twice": (having("categories", 1, "id", to=1), "id 1 "),
    "no categories": (having("categories", to=[]), "categories"),
    "categories null": (having("categories", to=None), "categories"),
    "a category without a name": (without("categories", 0, "name"), "without 'name'"),
    "a category more": (lambda c: c["categories"].append({"id": 9, "name": "grey"}), "MODEL.ROI_HEADS.NUM_CLASSES"),
    "an image that is missing": (having("images", 0, "file_name", to="gone.png"), "gone.png"),
    "no annotation at all": (having("annotations", to=[]), "no annotations"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_wrong_entry_is_named(scene, name):
    change, part = ENTRIES[name]
    content = json.loads(scene.json.read_text())
    changed = change(content)
    scene.json.write_text(json.dumps(content if changed is None else changed))
    set_or_file = "source_train" if name in ("a category more", "no annotation at all") else "source/train.json"
    set_or_file = "gone.png" if "missing" in name else set_or_file
    check_told([set_or_file, part], prepare, scene.config())
    assert problems(scene.config())


FILES = {
    "truncated": lambda file: file.write_text(file.read_text()[:500]),
    "empty": lambda file: file.write_text(""),
    "not JSON": lambda file: file.write_text("<annotation><object/></annotation>"),
    "binary": lambda file: file.write_bytes(bytes(range(256))),
    "deep": lambda file: file.write_text("[" * 100000),
    "missing": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("name", FILES)
def test_an_unreadable_file_is_named(scene, name):
    FILES[name](scene.json)
    check_told(["source/train.json"], prepare, scene.config())
    check_problem(scene.config(), ["source/train.json"])


def test_several_problems_of_one_file_are_listed_together(scene):
    content = json.loads(scene.json.read_text())
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    content["annotations"][5]["category_id"] = 40
    scene.json.write_text(json.dumps(content))
    first, second = problems(scene.config())
    assert "annotation 1 " in first and "annotation 6 " in second


def test_an_image_that_is_listed_twice_is_found_by_the_check(scene):
    content = json.loads(scene.json.read_text())
    content["images"][1]["file_name"] = "train_0.png"
    scene.json.write_text(json.dumps(content))
    check_problem(scene.config(), ["source_train", "train_0.png"])
