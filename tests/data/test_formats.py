"""Labelled folders: what they are is seen, and Pascal VOC and YOLO become COCO with every box where it was."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest

from helpers.data import write_coco, write_image
from mic_det.data.formats.convert import to_coco
from mic_det.data.formats.recognise import recognise
from mic_det.errors import DataError

WIDTH, HEIGHT = 200, 100
# image -> boxes (class, x0, y0, x1, y1) in whole pixels
BOXES = {
    "b.jpg": [("dog", 20, 10, 60, 50), ("cat", 100, 40, 180, 90), ("dog", 0, 0, 200, 100)],
    "a.png": [("cat", 10, 20, 30, 60)],
    "nothing.png": [],
}
CLASSES = ("dog", "cat", "bird")


def images(folder, names=tuple(BOXES)):
    for name in names:
        write_image(Path(folder) / name, np.full((HEIGHT, WIDTH, 3), 90, np.uint8))


def xml(boxes, difficult=()):
    objects = "".join(
        f"<object><name>{c}</name><difficult>{int(i in difficult)}</difficult><bndbox><xmin>{x0 + 1}</xmin>"
        f"<ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for i, (c, x0, y0, x1, y1) in enumerate(boxes)
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><folder>x</folder>{size}{objects}</annotation>"


def write_voc(root, boxes=BOXES, image_folder="JPEGImages", label_folder="Annotations", difficult=()):
    images(root / image_folder)
    (root / label_folder).mkdir(parents=True, exist_ok=True)
    for name, of_image in boxes.items():
        (root / label_folder / f"{Path(name).stem}.xml").write_text(xml(of_image, difficult))
    return root


def lines(boxes, classes=CLASSES):
    rows = [
        (classes.index(c), (x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT, (x1 - x0) / WIDTH, (y1 - y0) / HEIGHT)
        for c, x0, y0, x1, y1 in boxes
    ]
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def write_yolo(root, splits=("images",), boxes=BOXES, data="names: [dog, cat, bird]\n"):
    for split in splits:
        images(root / split)
        labels = root / split.replace("images", "labels")
        labels.mkdir(parents=True, exist_ok=True)
        for name, of_image in boxes.items():
            (labels / f"{Path(name).stem}.txt").write_text(lines(of_image))
    (root / "data.yaml").write_text(data)
    return root


def boxes_of(content):
    """{file: sorted [(class, x0, y0, x1, y1)]} of a COCO file's content."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    found = {Path(x["file_name"]).name: [] for x in content["images"]}
    files = {x["id"]: Path(x["file_name"]).name for x in content["images"]}
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        found[files[a["image_id"]]].append((names[a["category_id"]], x, y, x + w, y + h))
    return {file: sorted(boxes) for file, boxes in found.items()}


# ---------------------------------------------------------------------------------------- recognition


@pytest.mark.parametrize("image_folder", [".", "images", "deep/er"])
def test_coco_is_recognised_wherever_its_images_are(tmp_path, image_folder):
    write_coco(tmp_path / "labels.json", [(n, WIDTH, HEIGHT) for n in BOXES], [(0, 1, (1, 2, 30, 40))])
    images(tmp_path / image_folder)
    found = recognise(tmp_path, "train", "SOURCE")
    assert (found.kind, found.json) == ("COCO", tmp_path / "labels.json")
    assert found.images.samefile(tmp_path / image_folder)
    assert recognise(tmp_path / "labels.json", "train", "SOURCE").images.samefile(tmp_path / image_folder)


def test_coco_in_a_sister_folder_of_its_images(tmp_path):
    write_coco(tmp_path / "annotations/instances.json", [("a.png", WIDTH, HEIGHT)], [(0, 1, (1, 2, 30, 40))])
    images(tmp_path / "pictures", ["a.png"])
    assert recognise(tmp_path / "annotations/instances.json", "train", "SOURCE").images.name == "pictures"


def test_of_several_coco_files_the_one_of_the_split_counts_or_none(tmp_path):
    images(tmp_path)
    for name in ("instances_train", "instances_val"):
        write_coco(tmp_path / f"{name}.json", [("a.png", WIDTH, HEIGHT)], [(0, 1, (1, 2, 30, 40))])
    assert recognise(tmp_path, "train", "SOURCE").json.stem == "instances_train"
    assert recognise(tmp_path, "test", "--test").json.stem == "instances_val"
    write_coco(tmp_path / "train2.json", [("a.png", WIDTH, HEIGHT)], [(0, 1, (1, 2, 30, 40))])
    with pytest.raises(DataError, match=r"SOURCE .* has 3 COCO files \(.*instances_train.json.*\): name one"):
        recognise(tmp_path, "train", "SOURCE")


def test_an_unlabelled_coco_file_is_no_source(tmp_path):
    images(tmp_path)
    write_coco(tmp_path / "x.json", [("a.png", WIDTH, HEIGHT)], [])
    with pytest.raises(DataError, match="no labels that can be read"):
        recognise(tmp_path, "train", "SOURCE")
    with pytest.raises(DataError, match="is not a COCO file with"):
        recognise(tmp_path / "x.json", "train", "SOURCE")


def test_coco_without_its_images_is_refused(tmp_path):
    write_coco(tmp_path / "x.json", [("gone.png", WIDTH, HEIGHT)], [(0, 1, (1, 2, 30, 40))])
    with pytest.raises(DataError, match="gone.png"):
        recognise(tmp_path, "train", "SOURCE")


@pytest.mark.parametrize("folders", [("JPEGImages", "Annotations"), (".", "."), ("a/images", "a/xml")])
def test_pascal_voc_is_recognised(tmp_path, folders):
    found = recognise(write_voc(tmp_path, image_folder=folders[0], label_folder=folders[1]), "train", "SOURCE")
    assert found.kind == "Pascal VOC"
    assert [tuple(map(Path.resolve, p)) for p in found.pairs] == [tuple((tmp_path / f).resolve() for f in folders)]


@pytest.mark.parametrize(
    "splits, data, train, test",
    [
        (["images"], "", ["images"], ["images"]),
        (["images/train", "images/val"], "train: images/train\nval: images/val\n", ["images/train"], ["images/val"]),
        (["train/images", "valid/images"], "train: ../train/images\nval: ../valid/images\n", ["train/images"],
         ["valid/images"]),
        (["images/train", "images/val"], "path: /somebody/elses\ntrain: images/train\n", ["images/train"],
         ["images/train", "images/val"]),
    ],
)  # fmt: skip
def test_yolo_is_recognised_with_the_split_of_the_role(tmp_path, splits, data, train, test):
    root = write_yolo(tmp_path / "set", splits, data=f"names: [dog, cat, bird]\n{data}")
    for role, expected in (("train", train), ("test", test)):
        found = recognise(root, role, "SOURCE")
        assert found.kind == "YOLO" and [p[0] for p in found.pairs] == [root / e for e in expected]
        assert all(p[1].name == p[0].name.replace("images", "labels") for p in found.pairs)


def test_more_than_one_kind_is_refused_with_both_names(tmp_path):
    write_yolo(write_voc(tmp_path, image_folder="images"))
    with pytest.raises(DataError, match=r"labels of 2 kinds \(Pascal VOC, .*; YOLO, .*\)"):
        recognise(tmp_path, "train", "SOURCE")


def test_nothing_recognised_says_what_was_looked_for_and_found(tmp_path):
    images(tmp_path)
    (tmp_path / "notes.csv").touch()
    with pytest.raises(DataError, match=r"COCO .* Pascal VOC .* YOLO .* Found: 2 x .png, 1 x .jpg, 1 x .csv"):
        recognise(tmp_path, "train", "SOURCE")
    with pytest.raises(DataError, match="no such folder"):
        recognise(tmp_path / "absent", "train", "SOURCE")


# ---------------------------------------------------------------------------------------- conversion


@pytest.fixture
def supervision():
    return pytest.importorskip("supervision")


def test_pascal_voc_becomes_coco_box_by_box(supervision, tmp_path):
    content, notes = to_coco(recognise(write_voc(tmp_path, difficult=(1,)), "train", "SOURCE"))
    expected = {name: sorted(boxes) for name, boxes in BOXES.items()}
    assert boxes_of(content) == expected, "xmin and ymin are counted from 1"
    assert [c["name"] for c in content["categories"]] == ["cat", "dog"]
    crowds = [a for a in content["annotations"] if a["iscrowd"]]
    assert len(crowds) == 1 and crowds[0]["bbox"] == [100, 40, 80, 50], "the second box of an image"
    assert notes == ["1 boxes are marked difficult: training and AP ignore them."]
    assert {(x["width"], x["height"]) for x in content["images"]} == {(WIDTH, HEIGHT)}
    assert all((tmp_path / x["file_name"]).is_file() for x in content["images"])


def test_images_without_xml_are_left_out(supervision, tmp_path):
    write_voc(tmp_path)
    (tmp_path / "Annotations/a.xml").unlink()
    content, notes = to_coco(recognise(tmp_path, "train", "SOURCE"))
    assert boxes_of(content).keys() == {"b.jpg", "nothing.png"}
    assert notes == ["1 images without a label file are left out."]


@pytest.mark.parametrize("names", ["[dog, cat, bird]", "{2: bird, 0: dog, 1: cat}"])
def test_yolo_becomes_coco_box_by_box(supervision, tmp_path, names):
    root = write_yolo(tmp_path, ["images/train", "images/val"], data=f"names: {names}\n")
    (root / "labels/train/nothing.txt").unlink()
    content, notes = to_coco(recognise(root / "images/train", "train", "SOURCE"))
    found = boxes_of(content)
    assert {k: len(v) for k, v in found.items()} == {k: len(v) for k, v in BOXES.items()}
    for name, boxes in BOXES.items():
        for got, want in zip(found[name], sorted(boxes)):
            assert got[0] == want[0] and got[1:] == pytest.approx(want[1:], abs=0.01)
    assert [c["name"] for c in content["categories"]] == list(CLASSES), "in the order of the data file"
    assert notes == ["1 images without a label file count as images without objects."]


def test_both_splits_of_yolo_have_images_of_their_own(supervision, tmp_path):
    write_yolo(tmp_path, ["images/train", "images/val"])
    content, _ = to_coco(recognise(tmp_path, "train", "SOURCE"))
    assert len({x["file_name"] for x in content["images"]}) == 6
    assert len(content["annotations"]) == 2 * sum(map(len, BOXES.values()))


def test_polygons_count_with_their_boxes(supervision, tmp_path):
    write_yolo(tmp_path, boxes={"a.png": [], "b.jpg": [], "nothing.png": []})
    (tmp_path / "labels/a.txt").write_text("1 0.1 0.2 0.4 0.2 0.4 0.6 0.1 0.6 0.2 0.4\n")
    content, _ = to_coco(recognise(tmp_path, "train", "SOURCE"))
    ((name, *box),) = boxes_of(content)["a.png"]
    assert name == "cat" and box == pytest.approx([20, 20, 80, 60], abs=1.0)


def test_lost_or_moved_boxes_stop_the_conversion(supervision, tmp_path, monkeypatch):
    found = recognise(write_voc(tmp_path), "train", "SOURCE")
    original = supervision.DetectionDataset.from_pascal_voc

    def loses(*args):
        dataset = original(*args)
        key = next(k for k in dataset.annotations if k.endswith("b.jpg"))
        dataset.annotations[key] = dataset.annotations[key][:2]
        return dataset

    def moves(*args):
        dataset = original(*args)
        for detections in dataset.annotations.values():
            detections.xyxy[:, 0] -= 5
        return dataset

    for fault, message in ((loses, "has 3 boxes, but supervision reads 2"), (moves, "but supervision reads")):
        monkeypatch.setattr(supervision.DetectionDataset, "from_pascal_voc", fault)
        with pytest.raises(DataError, match=message):
            to_coco(found)


@pytest.mark.parametrize(
    "text, message",
    [("7 0.5 0.5 0.1 0.1\n", "7"), ("0 0.5 0.5 0.1\n", "expected at least 5|four finite"),
     ("0 0.5 nan 0.1 0.1\n", "finite"), ("dog 0.5 0.5 0.1 0.1\n", "dog")],
)  # fmt: skip
def test_lines_that_are_no_yolo_are_named(supervision, tmp_path, text, message):
    write_yolo(tmp_path)
    (tmp_path / "labels/a.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        to_coco(recognise(tmp_path, "train", "SOURCE"))


def test_without_the_library_the_error_names_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("supervision"):
            raise ImportError("No module named 'supervision'")
        return real(name, *args, **kwargs)

    found = recognise(write_yolo(tmp_path), "train", "SOURCE")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match="pip install supervision"):
        to_coco(found)


def test_the_result_is_a_file_that_is_read_like_any_other(supervision, tmp_path):
    from mic_det.data.coco.annotation_file import read_coco

    content, _ = to_coco(recognise(write_yolo(tmp_path), "train", "SOURCE"))
    (tmp_path / "coco.json").write_text(json.dumps(content))
    assert len(read_coco("x", tmp_path / "coco.json")["annotations"]) == 4
