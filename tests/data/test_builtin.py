"""The registered Cityscapes sets: what they hold, what they evaluate, and what is said where something is missing."""

import json
import os
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from helpers.cityscapes import BOXES, write_cityscapes
from helpers.data import run_tool_here
from mic_det.data.datasets.builtin import cityscapes_sets, split_annotations
from mic_det.data.datasets.cityscapes_labels import LABELS, THING_CLASSES
from mic_det.data.run_sets import describe
from mic_det.errors import DataError


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "däten"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_cityscapes(tmp_path / "däten" / "cityscapes", betas=("0.005", "0.01", "0.02"))


def boxes_of(dicts):
    """Boxes without crowds, by number of the image."""
    found = {}
    for d in dicts:
        number = os.path.basename(d["file_name"]).split("_")[1]
        found[number] = sorted(
            (THING_CLASSES[a["category_id"]], tuple(a["bbox"])) for a in d["annotations"] if not a["iscrowd"]
        )
    return found


def test_registering_does_not_touch_the_disk(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "nowhere")
    names = {"cityscapes_det_train", "cityscapes_det_val", "cityscapes_car_val", "cityscapes_det_train_half_a"}
    names |= {f"cityscapes_foggy_{b}_{s}" for b in ("0.005", "0.01", "0.02", "all") for s in ("train", "val")}
    assert names <= cityscapes_sets().keys() <= set(DatasetCatalog.list())
    with pytest.raises(DataError, match="no Cityscapes in nowhere.cityscapes.*gtFine.*DETECTRON2_DATASETS"):
        DatasetCatalog.get("cityscapes_det_val")


@pytest.mark.parametrize("annotations", [("instanceIds",), ("polygons",), ("polygons", "instanceIds")])
def test_boxes_by_hand_from_instance_maps_and_from_polygons(tmp_path, monkeypatch, annotations):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_cityscapes(tmp_path / "cityscapes", annotations=annotations)
    dicts = DatasetCatalog.get("cityscapes_det_val")
    assert boxes_of(dicts) == {k: sorted(v) for k, v in BOXES.items()}  # the empty image too
    (crowd,) = [a for d in dicts for a in d["annotations"] if a["iscrowd"]]
    assert THING_CLASSES[crowd["category_id"]] == "car" and crowd["bbox"] == [40, 5, 16, 5]
    assert all(a["segmentation"] for d in dicts for a in d["annotations"])


def test_foggy_images_share_the_annotations(data):
    clear = DatasetCatalog.get("cityscapes_det_val")
    for beta in ("0.005", "0.01", "0.02"):
        foggy = DatasetCatalog.get(f"cityscapes_foggy_{beta}_val")
        assert boxes_of(foggy) == boxes_of(clear)
        assert all(d["file_name"].endswith(f"_leftImg8bit_foggy_beta_{beta}.png") for d in foggy)
    everything = DatasetCatalog.get("cityscapes_foggy_all_val")
    assert len(everything) == 12 and len({d["file_name"] for d in everything}) == 12
    assert len({d["image_id"] for d in everything}) == 12
    assert [len(d["annotations"]) for d in everything] == [len(d["annotations"]) for d in clear] * 3


def test_evaluation_is_on_all_images_empty_ones_included(data):
    dicts = DatasetCatalog.get("cityscapes_foggy_0.02_val")
    meta = MetadataCatalog.get("cityscapes_foggy_0.02_val")
    truth = COCO(meta.json_file)
    assert meta.evaluator_type == "coco" and tuple(meta.thing_classes) == THING_CLASSES
    assert sorted(truth.getImgIds()) == sorted(d["image_id"] for d in dicts) and len(dicts) == 4
    assert [d["image_id"] for d in dicts if not d["annotations"]] == [2]


def test_halves_are_disjoint_and_complete(data):
    halves = [DatasetCatalog.get(f"cityscapes_det_train_half_{h}") for h in "ab"]
    foggy = [DatasetCatalog.get(f"cityscapes_foggy_0.02_train_half_{h}") for h in "ab"]
    assert [sorted(boxes_of(d)) for d in halves] == [["000000", "000002"], ["000001", "000003"]]
    assert [boxes_of(d) for d in foggy] == [boxes_of(d) for d in halves]


def test_one_class(data):
    dicts = DatasetCatalog.get("cityscapes_car_val")
    assert MetadataCatalog.get("cityscapes_car_val").thing_classes == ["car"]
    boxes = [a["bbox"] for d in dicts for a in d["annotations"] if not a["iscrowd"]]
    assert boxes == [[5, 10, 15, 16], [0, 0, 10, 10]] and len(dicts) == 4


def test_the_start_of_a_run_tells_split_fog_images_and_boxes(data):
    name = "cityscapes_foggy_0.02_val"
    line = describe("TEST", name, DatasetCatalog.get(name), list(THING_CLASSES))
    assert "Cityscapes val, fog of beta 0.02" in line and "4 images, 6 boxes (person 1, rider 0, car 2" in line


def test_label_maps_are_named_where_they_are(data):
    file = data / "gtFine/val/zürich/zürich_000002_000019_gtFine_labelTrainIds.png"
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(file)
    dicts = DatasetCatalog.get("cityscapes_foggy_0.02_val")
    assert [d.get("sem_seg_file_name") for d in dicts] == [None, None, str(file), None]


def test_the_folder_itself_may_be_cityscapes(data, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    assert len(DatasetCatalog.get("cityscapes_det_val")) == 4


def test_annotations_are_made_once_and_again_where_images_differ(data):
    split_annotations(data, "val", progress=False)
    file = data / "annotations/instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"] = []  # as if by hand: a second load must read it
    file.write_text(json.dumps(content))
    assert split_annotations(data, "val")["annotations"] == []
    for folder, kind in (("leftImg8bit", "leftImg8bit.png"), ("gtFine", "gtFine_polygons.json"),
                         ("gtFine", "gtFine_instanceIds.png")):  # fmt: skip
        (data / f"{folder}/val/zürich/zürich_000003_000019_{kind}").unlink()
    again = split_annotations(data, "val", progress=False)
    assert len(again["images"]) == 3 and again["annotations"]


def test_without_gtfine_the_coco_file_is_enough(data):
    before = boxes_of(DatasetCatalog.get("cityscapes_det_val"))
    shutil.rmtree(data / "gtFine")
    assert boxes_of(DatasetCatalog.get("cityscapes_det_val")) == before
    with pytest.raises(DataError, match="cityscapes_det_train: .*gtFine.train"):
        DatasetCatalog.get("cityscapes_det_train")


def test_foggy_images_alone_are_enough(data):
    before = boxes_of(DatasetCatalog.get("cityscapes_det_val"))
    shutil.rmtree(data / "leftImg8bit")
    shutil.rmtree(data / "annotations")
    assert boxes_of(DatasetCatalog.get("cityscapes_foggy_0.02_val")) == before


def test_missing_images_are_named(data):
    file = data / "leftImg8bit_foggy/val/zürich/zürich_000001_000019_leftImg8bit_foggy_beta_0.02.png"
    file.unlink()
    with pytest.raises(DataError, match="000001_000019_leftImg8bit_foggy_beta_0.02.png is missing.*make_fog.py"):
        DatasetCatalog.get("cityscapes_foggy_0.02_val")
    DatasetCatalog.get("cityscapes_foggy_0.01_val")
    shutil.rmtree(data / "leftImg8bit/train/zürich")
    with pytest.raises(DataError, match="cityscapes_det_train: .*leftImg8bit.png is missing"):
        DatasetCatalog.get("cityscapes_det_train")


def test_a_folder_that_cannot_be_written_leaves_the_files_in_the_users_cache(data, tmp_path, monkeypatch):
    (data / "annotations").write_text("a file in the way, as root may write to read-only folders")
    dicts = DatasetCatalog.get("cityscapes_foggy_0.02_val")
    assert boxes_of(dicts) == {k: sorted(v) for k, v in BOXES.items()}
    assert MetadataCatalog.get("cityscapes_foggy_0.02_val").json_file.startswith(str(tmp_path / "cache" / "mic_det"))


def test_the_program_writes_the_same_bytes_twice_in_parallel_and_alone(data, tmp_path, monkeypatch, capsys):
    for name, workers in (("a", 2), ("b", 1)):
        options = ["--beta", "0.02", "all", "--workers", workers, "--overwrite", "--output", tmp_path / name]
        run_tool_here(
            "../datasets/prepare_cityscapes.py", "--root", data, "--split", "val", *options, monkeypatch=monkeypatch
        )
    names = sorted(p.name for p in (tmp_path / "a").glob("*.json"))
    assert names == ["instances_foggy_0.02_val.json", "instances_foggy_all_val.json", "instances_val.json"]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    assert "val: 4 images (1 without a box), 6 boxes (person 1" in capsys.readouterr().out


def test_labels_are_as_published():
    trained = {i: name for name, (_, i, _) in LABELS.items() if i != 255}
    assert len(LABELS) == 35 and sorted(trained) == list(range(19))
    assert [trained[i] for i in (0, 10, 11, 13, 18)] == ["road", "sky", "person", "car", "bicycle"]
    assert [n for n, (i, _, has) in LABELS.items() if has] == [
        "person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"
    ]  # fmt: skip
    assert [i for i, _, _ in LABELS.values()] == [*range(34), -1]
