"""Sim10k, KITTI and BDD100K in their own formats, with boxes known by hand."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from helpers.data import write_image
from mic_det.errors import DataError

VOC = """<annotation><filename>{0}.jpg</filename><size><width>100</width><height>50</height><depth>3</depth></size>
<object><name>car</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>20</xmax><ymax>30</ymax>
</bndbox></object><object><name>person</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>
</object></annotation>"""
KITTI = """Car 0.00 0 -1.57 10.50 20.00 40.00 45.25 1.5 1.6 3.9 -2.7 1.7 3.6 -1.6
Van 0.00 0 1.85 50.00 20.00 60.00 30.00 1.7 1.6 3.9 -12.5 1.8 34.0 1.6
DontCare -1 -1 -10 70.00 10.00 80.00 20.00 -1 -1 -1 -1000 -1000 -1000 -10
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def picture(path, size=(50, 100)):
    write_image(path, np.full((*size, 3), 90, np.uint8))


def boxes(d):
    assert all(a["bbox_mode"] == BoxMode.XYXY_ABS for a in d["annotations"])
    return [(a["category_id"], a["bbox"], a["iscrowd"]) for a in d["annotations"]]


def test_sim10k(root):
    folder = root / "sim10k/VOC2012"
    (folder / "Annotations").mkdir(parents=True)
    for stem in ("3384827", "3384645"):
        (folder / f"Annotations/{stem}.xml").write_text(VOC.format(stem))
        picture(folder / f"JPEGImages/{stem}.jpg")
    dicts = DatasetCatalog.get("sim10k_car")
    assert [d["file_name"][-11:-4] for d in dicts] == ["3384645", "3384827"]
    assert boxes(dicts[0]) == [(0, [0.0, 10.0, 20.0, 30.0], 0)]  # 20 x 20 pixels, counted from 1 and inclusive
    assert (dicts[0]["width"], dicts[0]["height"]) == (100, 50)
    assert MetadataCatalog.get("sim10k_car").thing_classes == ["car"]
    (folder / "Annotations/3384645.xml").write_text("<annotation>")
    with pytest.raises(DataError, match="3384645.xml is not a readable VOC"):
        DatasetCatalog.get("sim10k_car")


def test_kitti(root):
    folder = root / "kitti/training"
    (folder / "label_2").mkdir(parents=True)
    (folder / "label_2/000000.txt").write_text(KITTI)
    picture(folder / "image_2/000000.png")
    (d,) = DatasetCatalog.get("kitti_car")
    assert boxes(d) == [(0, [10.5, 20.0, 40.0, 45.25], 0), (0, [70.0, 10.0, 80.0, 20.0], 1)]
    assert (d["width"], d["height"]) == (100, 50)
    (folder / "label_2/000001.txt").write_text("Car 0 0 0 1 2 x 4")
    with pytest.raises(DataError, match="000001.txt, line 1"):
        DatasetCatalog.get("kitti_car")
    (folder / "label_2/000001.txt").write_text(KITTI)
    with pytest.raises(DataError, match="000001.png is missing"):
        DatasetCatalog.get("kitti_car")


@pytest.mark.parametrize("file, names", [
    ("bdd100k_labels_images_val.json", ("person", "bike", "motor")),
    ("det_20/det_val.json", ("pedestrian", "bicycle", "motorcycle")),
])  # fmt: skip
def test_bdd100k_of_both_years(root, file, names):
    labels = [{"category": n, "box2d": {"x1": 10 * i, "y1": 1, "x2": 10 * i + 5, "y2": 9}} for i, n in enumerate(names)]
    labels += [{"category": "drivable area", "poly2d": []}, {"category": "traffic light", "box2d": labels[0]["box2d"]}]
    frames = [
        {"name": "a.jpg", "attributes": {"timeofday": "night"}, "labels": labels},
        {"name": "b.jpg", "attributes": {"timeofday": "daytime"}},
        {"name": "c.jpg", "attributes": {"timeofday": "dawn/dusk"}, "labels": labels},
    ]
    path = root / "bdd100k/labels" / file
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(frames))
    for name in ("a", "b"):
        picture(root / f"bdd100k/images/100k/val/{name}.jpg", (720, 1280))
    (night,) = DatasetCatalog.get("bdd100k_night_val")
    classes = MetadataCatalog.get("bdd100k_night_val").thing_classes
    assert [(classes[c], b) for c, b, _ in boxes(night)] == [
        ("person", [0.0, 1.0, 5.0, 9.0]), ("bicycle", [10.0, 1.0, 15.0, 9.0]), ("motorcycle", [20.0, 1.0, 25.0, 9.0])
    ]  # fmt: skip
    (day,) = DatasetCatalog.get("bdd100k_day_val")
    assert day["annotations"] == [] and day["file_name"].endswith("b.jpg")


@pytest.mark.parametrize("name", ["sim10k_car", "kitti_car", "bdd100k_day_train"])
def test_missing_folders_are_named(root, name):
    folder = {"sim10k_car": "sim10k.VOC2012", "kitti_car": "kitti.training", "bdd100k_day_train": "bdd100k"}[name]
    with pytest.raises(DataError, match=f"{name}: there is no folder .*{folder} .*docs/datasets.md"):
        DatasetCatalog.get(name)
    (root / folder.replace(".", "/")).mkdir(parents=True)
    with pytest.raises(DataError, match=f"{name}: there is no (label file|\\*)"):
        DatasetCatalog.get(name)
