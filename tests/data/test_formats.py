"""Labelled folders: what they are is seen, and Pascal VOC and YOLO become COCO with every box where it was."""

import builtins
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_a_file_of_each_split_finds_its_own_images_though_their_names_are_the_same(tmp_path):
    names = [("a.png", WIDTH, HEIGHT)]
    for split in ("train", "val"):
        images(tmp_path / split, ["a.png"] if split == "val" else ["a.png", "b.png"])
        write_coco(tmp_path / f"annotations/instances_{split}2017.json", names, [(0, 1, (1, 2, 30, 40))])
    for role, split in (("train", "train"), ("test", "val")):
        assert recognise(tmp_path, role, "SOURCE").images == tmp_path / split
    write_coco(tmp_path / "annotations/mine.json", names, [(0, 1, (1, 2, 30, 40))])
    with pytest.raises(DataError, match="may be those in .*train or in .*val|may be those in .*val or in .*train"):
        recognise(tmp_path / "annotations/mine.json", "train", "SOURCE")


@pytest.mark.parametrize("above", ["here", "train and val of fog"])
@pytest.mark.parametrize("absolute", [True, False])
def test_the_names_of_folders_above_all_images_choose_none_of_them(tmp_path, monkeypatch, above, absolute):
    for split in ("train", "val"):
        images(tmp_path / above / split, ["a.png"])
    write_coco(tmp_path / above / "val.json", [("a.png", WIDTH, HEIGHT)], [(0, 1, (1, 2, 30, 40))])
    monkeypatch.chdir(tmp_path / above)
    found = recognise(tmp_path / above / "val.json" if absolute else "val.json", "test", "--test")
    assert found.images.resolve() == tmp_path / above / "val"


def test_coco_files_of_one_name_in_folders_of_the_splits(tmp_path):
    for split in ("train", "valid"):
        images(tmp_path / split, ["a.png"])
        write_coco(tmp_path / split / "_annotations.coco.json", [("a.png", WIDTH, HEIGHT)], [(0, 1, (1, 2, 30, 40))])
    for role, split in (("train", "train"), ("test", "valid")):
        found = recognise(tmp_path, role, "SOURCE")
        assert found.json.parent == found.images == tmp_path / split


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
         ["images/val"]),
        (["images/a", "images/b"], "train: /home/me/set/images/b\nval: /home/me/set/images/a\n", ["images/b"],
         ["images/a"]),
        (["images/a", "images/train"], "", ["images/a", "images/train"], ["images/a", "images/train"]),
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


@pytest.mark.parametrize("layout", ["{}/{}", "{1}/{0}"])
def test_folders_of_xml_with_the_same_file_names_keep_their_own_images(supervision, tmp_path, layout):
    """Each folder's box is elsewhere, so that an exchange shows."""
    for k, name in enumerate(("b", "a")):
        boxes = {"a.png": [("cat", 10 + k, 20, 30, 60)]}
        write_voc(tmp_path, boxes, layout.format("images", name), layout.format("Annotations", name))
    content, _ = to_coco(recognise(tmp_path, "train", "SOURCE"))
    found = {content["images"][a["image_id"] - 1]["file_name"]: a["bbox"] for a in content["annotations"]}
    of = {name: f"{layout.format('images', name)}/a.png" for name in "ab"}
    assert found == {of["b"]: [10, 20, 20, 40], of["a"]: [11, 20, 19, 40]}


def test_splits_of_pascal_voc_count_by_the_names_of_their_folders(supervision, tmp_path):
    for split in ("train", "val"):
        write_voc(tmp_path, image_folder=f"{split}/images", label_folder=f"{split}/xml")
    for role, split in (("train", "train"), ("test", "val")):
        content, notes = to_coco(recognise(tmp_path, role, "SOURCE"))
        assert all(x["file_name"].startswith(f"{split}/") for x in content["images"])
        assert notes[0].startswith("folders of other splits are left out: ")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "iso-8859-1"])
def test_xml_is_read_in_its_own_encoding(supervision, tmp_path, encoding):
    write_voc(tmp_path)
    head = f'<?xml version="1.0" encoding="{encoding[:10].replace("-sig", "")}"?>'
    for file in tmp_path.rglob("*.xml"):
        file.write_text(head + file.read_text().replace("dog", " chi\u00ean\n"), encoding=encoding)
    content, _ = to_coco(recognise(tmp_path, "train", "SOURCE"))
    assert [c["name"] for c in content["categories"]] == ["cat", "chi\u00ean"] and len(content["annotations"]) == 4


def test_labels_that_would_be_left_out_without_a_word_are_refused(supervision, tmp_path):
    write_voc(tmp_path / "voc")
    (tmp_path / "voc/JPEGImages/a.png").unlink()
    with pytest.raises(DataError, match="1 files of labels in .*Annotations have no image, such as a.xml"):
        to_coco(recognise(tmp_path / "voc", "train", "SOURCE"))
    write_voc(tmp_path / "upper")
    (tmp_path / "upper/Annotations/a.xml").rename(tmp_path / "upper/Annotations/a.XML")
    with pytest.raises(DataError, match="a.XML: supervision reads .xml in small letters"):
        to_coco(recognise(tmp_path / "upper", "train", "SOURCE"))
    write_voc(tmp_path / "twice")
    shutil.copytree(tmp_path / "twice/Annotations", tmp_path / "twice/backup")
    with pytest.raises(DataError, match="has two label files"):
        to_coco(recognise(tmp_path / "twice", "train", "SOURCE"))


@pytest.mark.parametrize("kind", ["YOLO", "Pascal VOC"])
def test_photographs_that_exif_turns_are_labelled_upright(supervision, tmp_path, kind):
    root = write_yolo(tmp_path) if kind == "YOLO" else write_voc(tmp_path)
    for file in (*root.rglob("*.png"), *root.rglob("*.jpg")):
        with Image.open(file) as image:
            exif = image.getexif()
            exif[274] = 6
            image.rotate(90, expand=True).save(file, exif=exif)
    content, _ = to_coco(recognise(root, "train", "SOURCE"))
    assert {(x["width"], x["height"]) for x in content["images"]} == {(WIDTH, HEIGHT)}
    for name, boxes in boxes_of(content).items():
        for got, want in zip(boxes, sorted(BOXES[name])):
            assert got[1:] == pytest.approx(want[1:], abs=0.01)


def test_the_size_that_pascal_voc_names_is_kept_for_the_check(supervision, tmp_path):
    write_voc(tmp_path)
    file = tmp_path / "Annotations/a.xml"
    file.write_text(file.read_text().replace(f"<width>{WIDTH}<", f"<width>{2 * WIDTH}<"))
    content, _ = to_coco(recognise(tmp_path, "train", "SOURCE"))
    assert sorted(x["width"] for x in content["images"]) == [WIDTH, WIDTH, 2 * WIDTH]


def test_a_text_file_may_list_the_images_of_a_split(supervision, tmp_path):
    root = write_yolo(tmp_path, data="names: [dog, cat, bird]\ntrain: train.txt\nval: val.txt\n")
    (root / "train.txt").write_text("./images/a.png\n/home/me/set/images/nothing.png\n")
    (root / "val.txt").write_text("images/b.jpg\n")
    for role, names in (("train", {"a.png", "nothing.png"}), ("test", {"b.jpg"})):
        content, _ = to_coco(recognise(root, role, "SOURCE"))
        assert boxes_of(content).keys() == names
    (root / "train.txt").write_text("images/gone.png\n")
    with pytest.raises(DataError, match="train.txt lists images/gone.png"):
        recognise(root, "train", "SOURCE")


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "obj.names"])
def test_the_class_names_may_be_a_text_file(supervision, tmp_path, place):
    root = write_yolo(tmp_path)
    (root / "data.yaml").unlink()
    (root / place).write_text("dog\ncat\nbird\n")
    content, _ = to_coco(recognise(root, "train", "SOURCE"))
    assert [c["name"] for c in content["categories"]] == list(CLASSES) and len(content["annotations"]) == 4


def test_keypoints_are_no_polygons(supervision, tmp_path):
    root = write_yolo(tmp_path, data="names: [dog, cat, bird]\nkpt_shape: [2, 3]\n")
    for file in root.rglob("*.txt"):
        file.write_text("".join(f"{line} 0.5 0.5 2 0.1 0.1 0\n" for line in file.read_text().splitlines()))
    content, _ = to_coco(recognise(root, "train", "SOURCE"))
    found = boxes_of(content)
    assert found["a.png"] == [("cat", *map(pytest.approx, BOXES["a.png"][0][1:]))] and len(found["b.jpg"]) == 3


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
    write_yolo(tmp_path, ["images/monday", "images/tuesday"])
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
