"""What is reported of an odd COCO file, what masks need, and that a target's annotations are left alone."""

import copy
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as coco_mask

from helpers.clean_set import FILES, HEIGHT, WIDTH, CleanSet, check
from helpers.data import forget_registered_sets, run_tool_here, tiny_config, write_config
from mic_det.data.audit import check_config_datasets
from mic_det.data.classes import positions
from mic_det.data.coco.box_units import box_convention_problem
from mic_det.data.coco.doubts import doubts
from mic_det.data.coco.fields import area_of, read_flag, read_segmentation
from mic_det.data.coco.image_names import FilesOnDisk
from mic_det.data.run_sets import check_datasets
from mic_det.errors import DataError
from mic_det.evaluation.coco_truth import Truth


@pytest.fixture
def clean(tmp_path):
    with forget_registered_sets():
        yield CleanSet(tmp_path)


def changed(clean, change, name="test.json"):
    content = copy.deepcopy(clean.content)
    change(content)
    clean.write(name, content)
    return content


# ------------------------------------------------------------------------------------- reports


def test_repairs_are_reported_once_with_counts_in_log_and_check(clean):
    def change(content):
        for i, a in enumerate(content["annotations"]):
            a["id"] = f"x{i}"
            if i < 7:
                del a["area"]
            if i == 3:
                a["segmentation"] = [[]]
            if i in (4, 5):
                a["iscrowd"] = "false"

    changed(clean, change)
    cfg = clean.config()
    lines = check(cfg)
    expected = [
        "7 annotations: has no usable 'area'",
        "1 annotation: has no polygon with three corners and an area; left out (first: annotation x3)",
        "2 annotations: has an 'iscrowd' that is not the number 0 or 1",
        "annotation ids are numbered again: of 25, 25 are not whole numbers above 0, such as 'x0'",
    ]
    reports, _ = check_config_datasets(cfg, workers=1, progress=False)
    for text in expected:
        assert sum(text in line for line in lines) == 1, (text, lines)
        assert sum(text in note for r in reports for note in r.notes) == 1, text


def test_copies_and_boxes_that_leave_their_image_are_reported(clean):
    """They may be meant, and change AP without a word if they are not."""

    def twice(content):
        content["images"].append({**content["images"][0], "id": 99})
        content["annotations"] += [{**a, "image_id": 99} for a in content["annotations"] if a["image_id"] == 1]

    def copied(content):
        content["annotations"] += copy.deepcopy(content["annotations"][:3])

    def centres(content):
        for a in content["annotations"]:
            x, y, w, h = a["bbox"]
            a["bbox"] = [x + w / 2, y + h / 2, w, h]

    def empty(content):
        content["annotations"] = []

    for change, text in (
        (twice, f"1 files are listed more than once with the same boxes, such as {FILES[0]} (ids [1, 99])"),
        (copied, "3 boxes are listed more than once with the same class, such as [29, 43, 55, 34] of image 1"),
        (
            centres,
            "3 of 25 boxes reach far out of their image, such as annotation 5: [159.0, 124.5, 48, 49] in 200 x 150",
        ),
        (empty, "there is no box at all: AP is undefined"),
    ):
        changed(clean, change)
        lines = check(clean.config())
        assert sum(text in line for line in lines) == 1, (text, lines)


def test_boxes_that_leave_their_image_a_little_are_ordinary():
    def note(*boxes):
        return doubts([], {}, [(f"annotation {i}", list(b), 640, 480) for i, b in enumerate(boxes)])

    assert note((-1, -1, 642, 482), (0, 0, 640, 480), (-30, 400, 100, 100)) == ([], [])
    assert note(*[(0, 0, 9, 9)] * 99, (700, 0, 9, 9)) == ([], []), "one in a hundred is a slip"
    assert "1 of 1 boxes" in note((-40, 0, 80, 80))[1][0] and "1 of 1 boxes" in note((0, 430, 80, 80))[1][0]


def test_many_crowds_are_reported_and_all_are_a_problem(clean):
    def crowds(count):
        def change(content):
            for a in content["annotations"][:count]:
                a["iscrowd"] = 1

        return change

    for count in (6, 7, 25):  # of 25; a quarter is 6.25
        changed(clean, crowds(count))
        reports, problems = check_config_datasets(clean.config(DATASETS__TRAIN=["damaged"]), 1, False)
        notes = [n for r in reports for n in r.notes if f"{count} of 25 boxes are crowds" in n]
        problems += [p for r in reports for p in r.problems if f"all {count} boxes are crowds" in p]
        assert bool(notes) == (count == 7)
        assert len(problems) == (2 + 1 if count == 25 else 1)  # in both roles; and the images of TEST are trained on


def test_ignored_boxes_neither_teach_nor_count(clean):
    def change(content):
        content["annotations"][0]["ignore"] = 1

    changed(clean, change)
    lines = check(clean.config())
    assert any("marked 'ignore'" in line for line in lines)
    boxes = [a for d in DatasetCatalog.get("damaged") for a in d["annotations"]]
    assert [a["iscrowd"] for a in boxes] == [1] + [0] * 24


def test_the_supercategory_that_some_programs_put_first_is_named(clean):
    def change(content):
        for x in content["categories"]:
            x["supercategory"] = "vehicles"
        content["categories"].insert(0, {"id": 0, "name": "vehicles", "supercategory": "none"})

    changed(clean, change, "clean.json")
    changed(clean, lambda content: None)
    with pytest.raises(DataError, match="4 classes.*NUM_CLASSES is 3.*'vehicles' has no box and is the 'supercat"):
        check_datasets(clean.config(DATASETS__TEST=[]))


def test_several_training_sets_have_the_classes_of_the_first(clean):
    def turn(content):
        for x in content["categories"]:
            x["id"] = 9 - x["id"]
        for a in content["annotations"]:
            a["category_id"] = 9 - a["category_id"]

    changed(clean, turn)
    lines = check_datasets(clean.config(DATASETS__TRAIN=["clean", "damaged"], DATASETS__TEST=[]))
    assert sum("mapped by name to car, bus, traffic light" in line for line in lines) == 1
    labels = [[a["category_id"] for d in DatasetCatalog.get(n) for a in d["annotations"]] for n in ("clean", "damaged")]
    assert labels[0] == labels[1] and set(labels[0]) == {0, 1, 2}
    assert MetadataCatalog.get("damaged").thing_dataset_id_to_contiguous_id == {8: 0, 7: 1, 6: 2}


# --------------------------------------------------------------------------------------- masks


def rle(content):
    for a in content["annotations"]:
        (corners,) = coco_mask.frPyObjects(a["segmentation"], HEIGHT, WIDTH)
        a["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": corners["counts"].decode()}


def half_empty(content):
    for a in content["annotations"][::2]:
        a["segmentation"] = [[]]


MASKS = {
    "polygons": (lambda content: None, "polygon", None),
    "RLE as bitmask": (rle, "bitmask", None),
    "RLE as polygon": (rle, "polygon", "25 of 25 masks are RLE.*INPUT.MASK_FORMAT bitmask"),
    "empty, polygon": (half_empty, "polygon", "13 of 25 boxes have no usable mask.*MODEL.MASK_ON"),
    "empty, bitmask": (half_empty, "bitmask", "13 of 25 boxes have no usable mask.*MODEL.MASK_ON"),
}


@pytest.mark.parametrize("role", ["TRAIN", "TEST"])
@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_checked_before_training(clean, kind, role):
    change, mask_format, problem = MASKS[kind]
    if role == "TEST" and kind == "RLE as polygon":
        problem = None  # evaluation takes either
    changed(clean, change, "test.json" if role == "TEST" else "clean.json")
    if role == "TRAIN":
        changed(clean, lambda content: None)
    cfg = clean.config(MODEL__MASK_ON=True, INPUT__MASK_FORMAT=mask_format)
    reports, _ = check_config_datasets(cfg, 1, False)
    problems = [p for r in reports for p in r.problems]
    if problem is None:
        assert len(check_datasets(cfg)) == 2 and not problems
        return
    with pytest.raises(DataError, match=f"DATASETS.{role}.*{problem}"):
        check_datasets(cfg)
    assert len(problems) == 1 and "mask" in problems[0]


def test_boxes_without_masks_stay_where_masks_are_off(clean):
    changed(clean, half_empty)
    check(clean.config())
    boxes = [a for d in DatasetCatalog.get("damaged") for a in d["annotations"]]
    assert len(boxes) == 25 and sum("segmentation" in a for a in boxes) == 12


# ------------------------------------------------------------------------------------- targets


PLACEHOLDERS = {
    "empty boxes": {"annotations": [{"id": 1, "image_id": 1, "category_id": 0, "bbox": [], "segmentation": []}]},
    "of unknown images": {"annotations": [{"image_id": "none", "bbox": None}]},
    "no list": {"annotations": {"a": 1}, "categories": 7},
    "classes twice": {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "a"}]},
    "no classes": {"categories": []},
    "images without ids and sizes": {"images": [{"file_name": f} for f in FILES]},
    "images of one id and no size": {"images": [{"id": 1, "file_name": f, "width": 0, "height": None} for f in FILES]},
}


@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_annotations_of_a_target_are_never_looked_at(clean, kind):
    changed(clean, lambda content: content.update(PLACEHOLDERS[kind]))
    roles = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["damaged"], "DATASETS__TEST": []}
    cfg = clean.config(**roles)
    assert len(check_datasets(cfg)) == 2
    reports, problems = check_config_datasets(cfg, 1, False)
    assert [(r.role, r.images, r.problems) for r in reports] == [("TRAIN", 5, []), ("TARGET", 5, [])]
    dicts = DatasetCatalog.get("damaged")
    assert not any("annotations" in d for d in dicts) and len({d["image_id"] for d in dicts}) == 5


def test_the_same_file_is_refused_where_its_labels_are_used(clean):
    changed(clean, lambda content: content.update(PLACEHOLDERS["empty boxes"]))
    roles = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["damaged"]}
    for keys in ({"DATASETS__TEST": ["damaged"]}, {"TEST__PSEUDO_LABELS": {"DATASET": "damaged"}}):
        with pytest.raises(DataError, match="annotation 1 "):
            check_datasets(clean.config(**{**roles, "DATASETS__TEST": [], **keys}))


# ------------------------------------------------------------------------------- single pieces


def test_the_check_program_exits_with_1_and_lists_each_entry(clean, monkeypatch, capsys):
    def change(content):
        content["annotations"][2]["iscrowd"] = "maybe"
        content["annotations"][9]["bbox"] = []

    changed(clean, change)
    sets = {n: {"JSON": str(clean.folder / f), "IMAGES": str(clean.folder / "images")}
            for n, f in (("clean", "clean.json"), ("damaged", "test.json"))}  # fmt: skip
    keys = {"DATASETS__CUSTOM": sets, "DATASETS__TRAIN": ["clean"], "DATASETS__TEST": ["damaged"]}
    file = write_config(clean.folder / "run.yaml", tiny_config(clean.folder, **keys))
    with pytest.raises(SystemExit) as caught:
        run_tool_here("../datasets/check.py", "--config-file", file, "--workers", 1, monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert caught.value.code == 1
    assert "annotation 3 of" in out and "'maybe'" in out and "annotation 10 of" in out


@pytest.mark.parametrize(
    "value, flag",
    [(0, 0), (1, 1), (True, 1), (False, 0), (None, 0), ("1", 1), ("0.0", 0), (" TRUE", 1), ("no", 0), (1.0, 1),
     (2, None), (-1, None), ("maybe", None), ([1], None), ({}, None), (0.5, None)],
)  # fmt: skip
def test_flags(value, flag):
    assert read_flag(value) == flag


def test_segmentations_that_can_be_read_mean_what_they_say():
    square = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0]
    assert read_segmentation([square], 20, 30) == ([square], "")
    assert read_segmentation(square, 20, 30)[0] == [square]
    assert read_segmentation([[[1.0, 1.0], [9.0, 1.0], [9.0, 9.0], [1.0, 9.0]]], 20, 30)[0] == [square]
    assert read_segmentation([square, [1, 1, 2, 2]], 20, 30)[0] == [square]
    counts = {"counts": [21, 3, 576], "size": [20, 30]}  # column by column: pixels 1 to 3 of the second column
    for value in (counts, [counts]):
        mask = coco_mask.decode(read_segmentation(value, 20, 30)[0])
        assert mask.sum() == 3 and mask[1:4, 1].all()
    assert read_segmentation({"counts": [600], "size": [20, 30]}, 20, 30)[0] is None


def test_areas_that_are_missing_are_those_of_masks_or_boxes():
    box = {"bbox": [1, 1, 8, 8]}
    assert area_of({**box, "area": 5}, 20, 30) == 5
    assert area_of(box, 20, 30) == 64
    assert area_of({**box, "segmentation": [[1, 1, 9, 1, 9, 5, 1, 5]]}, 20, 30) == 32
    assert area_of({**box, "segmentation": {"counts": [21, 3, 576], "size": [20, 30]}}, 20, 30) == 3


def test_image_ids_in_the_evaluators_are_those_of_the_file_where_these_are_plain():
    for ids, numbers in (([3, 8], [3, 8]), (["b", 8], [1, 2]), ([10**18, 3], [1, 2])):
        truth = Truth([{"image_id": i, "width": 9, "height": 9, "annotations": []} for i in ids], ["car"])
        assert list(truth.coco.imgs) == numbers and list(truth.image_numbers) == ids


def test_classes_are_matched_by_name_where_that_leaves_one_choice():
    assert positions(["b", "a"], ["a", "b"]) == [1, 0]
    assert positions([" Car", "TRAFFIC  light"], ["traffic light", "car"]) == [1, 0]
    assert positions(["a", "A"], ["A", "a"]) == [1, 0], "names that are the same come first"
    assert positions(["A ", "c"], ["A", "a", "b"]) == [None, None], "either is meant"
    assert positions(["é"], ["e\u0301"]) == [0]


def test_box_conventions():
    def problem(boxes, size=(640, 480)):
        return box_convention_problem([(f"annotation {i}", list(b), *size) for i, b in enumerate(boxes)])

    pixels = [(10, 20, 30, 40), (300, 200, 340, 280), (600, 400, 40, 80), (0, 0, 640, 480)]
    assert problem(pixels) == "" and problem([]) == ""
    assert "shares" in problem([(0.1, 0.2, 0.3, 0.4)])
    assert "corners" in problem([(x, y, x + w, y + h) for x, y, w, h in pixels])
    per_cent = [(i, i, 20, 30) for i in range(30)]
    assert "per cent" in problem(per_cent) and problem(per_cent, (120, 110)) == ""
    assert problem([(1, 1, 1, 1)] * 3, (2, 2)) == "", "an image of two pixels"


def test_a_file_that_may_be_meant_is_the_only_one(tmp_path):
    for name in ("a/x.png", "b/x.png", "b/y.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    files = FilesOnDisk(tmp_path)
    assert files.similar("C:\\data\\b\\X.png") == "b/x.png"
    assert files.similar("x.png") is None, "two"
    assert files.similar("https://host.example/b/y.jpg?size=1") == "b/y.jpg"
    assert files.similar("y.png") == "b/y.jpg" and files.similar("z.png") is None
    assert json.dumps(files.hint("b\\x.png")).count("b/x.png") == 2
