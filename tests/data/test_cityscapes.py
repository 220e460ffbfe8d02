"""Boxes from instance maps."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from helpers.cityscapes import triangle
from mic_det.data.datasets.cityscapes import cityscapes_to_coco, polygons_to_instance_ids, write_json
from mic_det.data.datasets.cityscapes_labels import THING_CLASSES


def write_tree(root, maps, split="train", city="äbc"):
    """Cityscapes' files for named instance maps."""
    for name, ids in maps.items():
        for folder in ("gtFine", "leftImg8bit"):
            (root / folder / split / city).mkdir(parents=True, exist_ok=True)
        stem = f"{city}_{name}_000019_"
        Image.fromarray(ids.astype(np.uint16)).save(root / f"gtFine/{split}/{city}/{stem}gtFine_instanceIds.png")
        Image.new("RGB", ids.shape[::-1]).save(root / f"leftImg8bit/{split}/{city}/{stem}leftImg8bit.png")
    return root


def test_tight_boxes_crowds_and_empty_images(tmp_path):
    ids = np.full((20, 30), 7)
    ids[2:6, 3:10] = 26000  # a car ...
    ids[3:5, 8:12] = 24001  # ... partly behind a person
    ids[10:15, 0:4] = 33  # a group of bicycles
    ids[16:18, 5:9] = 29000  # a caravan is none of the eight classes
    coco = cityscapes_to_coco(write_tree(tmp_path, {"000001": ids, "000000": np.full((20, 30), 7)}), "train")
    assert [x["file_name"].split("_")[1] for x in coco["images"]] == ["000000", "000001"]  # both kept, in order
    names = {c["id"]: c["name"] for c in coco["categories"]}
    found = [(names[a["category_id"]], a["bbox"], a["iscrowd"], a["area"], a["image_id"]) for a in coco["annotations"]]
    assert sorted(found) == [
        ("bicycle", [0, 10, 4, 5], 1, 20, 2),
        ("car", [3, 2, 7, 4], 0, 28 - 4, 2),
        ("person", [8, 3, 4, 2], 0, 8, 2),
    ]


def test_boxes_equal_a_brute_force_search(tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.choice([7, 23, 26, 24000, 24001, 26000, 32005], size=(12, 17))
    coco = cityscapes_to_coco(write_tree(tmp_path, {"000000": ids}), "train")
    for annotation, value in zip(coco["annotations"], (26, 24000, 24001, 26000, 32005)):
        pixels = [(x, y) for y in range(12) for x in range(17) if ids[y, x] == value]
        xs, ys = [p[0] for p in pixels], [p[1] for p in pixels]
        assert annotation["bbox"] == [min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1]
        assert annotation["area"] == len(pixels)


def test_pycocotools_reads_it_and_decodes_the_masks(tmp_path):
    ids = np.zeros((9, 8), int)
    ids[1:4, 2:7] = 28003
    coco = cityscapes_to_coco(write_tree(tmp_path, {"000000": ids}), "train")
    write_json(coco, tmp_path / "a.json")
    loaded = COCO(str(tmp_path / "a.json"))
    (annotation,) = loaded.loadAnns(loaded.getAnnIds())
    assert (loaded.annToMask(annotation) == (ids == 28003)).all()
    assert loaded.loadCats(annotation["category_id"])[0]["name"] == "bus"
    assert tuple(c["name"] for c in loaded.loadCats(loaded.getCatIds())) == THING_CLASSES


def test_written_twice_the_bytes_are_the_same(tmp_path):
    root = write_tree(tmp_path, {"000000": np.full((4, 4), 24000)})
    for name in ("a", "b"):
        write_json(cityscapes_to_coco(root, "train"), tmp_path / f"{name}.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert not list(tmp_path.glob("*.tmp"))
    json.loads((tmp_path / "a.json").read_text())


def test_missing_split_and_missing_image_are_named(tmp_path):
    root = write_tree(tmp_path, {"000000": np.full((4, 4), 24000)})
    with pytest.raises(FileNotFoundError, match="gtFine.test"):
        cityscapes_to_coco(root, "test")
    with pytest.raises(FileNotFoundError, match="000000_000019_leftImg8bit_foggy_beta_0.02.png is missing"):
        cityscapes_to_coco(root, "train", "leftImg8bit_foggy", "leftImg8bit_foggy_beta_0.02.png")


def test_the_eight_classes_in_the_order_of_the_field():
    assert THING_CLASSES == tuple("person rider car truck bus train motorcycle bicycle".split())


def test_an_image_without_annotation_and_an_empty_city_are_named(tmp_path):
    ids = np.full((4, 4), 24000)
    root = write_tree(tmp_path, {"000000": ids, "000001": ids}, city="ulm")
    (root / "gtFine/train/ulm/ulm_000001_000019_gtFine_instanceIds.png").unlink()
    with pytest.raises(FileNotFoundError, match="ulm_000001_000019_leftImg8bit.png has no .*unpack gtFine"):
        cityscapes_to_coco(root, "train")
    (root / "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png").unlink()
    assert len(cityscapes_to_coco(root, "train")["images"]) == 1
    (root / "gtFine/train/bonn").mkdir()
    with pytest.raises(FileNotFoundError, match="train.bonn: unpack gtFine"):
        cityscapes_to_coco(root, "train")


def test_maps_of_another_size_or_kind_and_broken_files_are_named(tmp_path):
    root = write_tree(tmp_path, {"000000": np.full((4, 6), 24000)}, city="ulm")
    file = root / "gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png"
    for broken in (np.zeros((2, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)):  # half the size, a colour picture
        Image.fromarray(broken).save(file)
        with pytest.raises(ValueError, match="000000_000019_gtFine_instanceIds.png has the shape"):
            cityscapes_to_coco(root, "train")
    file.write_bytes(b"no image")
    with pytest.raises(ValueError, match="000000_000019_gtFine_instanceIds.png .*cannot be read.*unpack"):
        cityscapes_to_coco(root, "train")


def test_a_triangle_and_hidden_parts_by_polygons(tmp_path):
    content, mask = triangle()
    file = tmp_path / "a_gtFine_polygons.json"
    file.write_text(json.dumps(content))
    assert ((polygons_to_instance_ids(file) == 26000) == mask).all() and mask.sum() > 500
    content["objects"].append({"label": "person", "polygon": [[0, 0], [49, 0], [49, 30], [0, 30]]})
    content["objects"].append({"label": "car", "polygon": [[0, 0], [49, 0], [49, 49], [0, 49]], "deleted": 1})
    file.write_text(json.dumps(content))
    ids = polygons_to_instance_ids(file)
    assert (ids[:31] == 24000).all() and ((ids[31:] == 26000) == mask[31:]).all()


@pytest.mark.parametrize(
    "content, named",
    [("{", "JSONDecodeError"), ("[]", "TypeError"), ('{"imgHeight": 4, "imgWidth": 4}', "objects"),
     ('{"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "dragon", "polygon": [[0, 0], [1, 1]]}]}', "dragon")],
)  # fmt: skip
def test_broken_polygon_files_are_named(tmp_path, content, named):
    file = tmp_path / "a_gtFine_polygons.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=f"a_gtFine_polygons.json is not a readable.*{named}"):
        polygons_to_instance_ids(file)
