"""Boxes of another labeller: their images, classes, geometry and scores, and files that cannot be right."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode

from helpers.data import declared, load, tiny_config, write_coco, write_two_domains
from mic_det.data.labeller import LABELLER, add_labeller, labeller_instances
from mic_det.data.loader import build_mic_train_loader
from mic_det.data.mapper import DomainMapper
from mic_det.data.run_sets import check_datasets
from mic_det.engine.setup import load_config
from mic_det.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("clean_catalogs")

COLORS = {"red": 0, "green": 1, "blue": 2}  # channel of the class's colour
WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labeller")
    write_two_domains(folder)
    return folder


def truth_of(root):
    return json.loads((root / "target" / "train.json").read_text())


def results(root, score=0.9):
    """The true boxes of the target as a results file: ids are those of the JSON."""
    annotations = truth_of(root)["annotations"]
    return [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": score} for a in annotations]


def config(root, tmp_path, content, target="target_train", custom=(), **keys):
    (tmp_path / "found.json").write_text(json.dumps(content) if not isinstance(content, str) else content)
    keys = {f"MODEL__MIC__LABELLER__{k}": v for k, v in {"JSON": str(tmp_path / "found.json"), **keys}.items()}
    model = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": [target]}
    custom = {**declared(root), **dict(custom)}
    return load(tmp_path, tiny_config(root, tmp_path / "out", **model, **keys, DATASETS__CUSTOM=custom))


def target_dicts(cfg):
    """The target's dicts in a training, in the order of the set."""
    return next(d for d in build_mic_train_loader(cfg).domains if d["name"] == "target")["dicts"]


def box_of_pixels(image, label):
    """XYXY of the pixels that have the class's colour: the target's haze leaves it far above the noise."""
    others = [c for c in range(3) if c != label]
    rows, columns = np.where((image[label] > 180) & (image[others].max(axis=0) < 140))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"INPUT__MIN_SIZE_TRAIN": [96], "INPUT__MAX_SIZE_TRAIN": 300},
        {"INPUT__CROP": {"ENABLED": True, "TYPE": "absolute", "SIZE": [50, 70]}},
    ],
)
def test_boxes_have_the_geometry_of_the_view(root, tmp_path, changes):
    """Flip, resize and crop move the boxes as the pixels: each box ends where the colour of its object ends."""
    cfg = config(root, tmp_path, results(root))
    for key, value in changes.items():
        node = cfg
        for part in key.split("__")[:-1]:
            node = node[part]
        if isinstance(value, dict):
            node[key.split("__")[-1]].update(value)
        else:
            node[key.split("__")[-1]] = value
    mapper, dicts, flipped, seen = DomainMapper(cfg, True, "target"), target_dicts(cfg), set(), 0
    whole = {x["file_name"]: x[LABELLER] for x in dicts}
    for seed in range(6):
        np.random.seed(seed)
        for x in dicts:
            mapped = mapper(x)
            image, found = mapped["image"].numpy().astype(int), mapped[LABELLER]
            assert found.image_size == image.shape[1:] and "instances" not in mapped and "annotations" not in mapped
            assert len(found.scores) == len(found.pred_boxes) and (found.scores == 0.9).all()
            labels = found.pred_classes.tolist()
            for label, box in zip(labels, found.pred_boxes.tensor.tolist()):
                if labels.count(label) == 1 and min(box[2] - box[0], box[3] - box[1]) > 6:
                    assert np.allclose(box, box_of_pixels(image, label), atol=2.1), (seed, x["file_name"])
                    original = next(a["bbox"] for a in whole[x["file_name"]] if a["category_id"] == label)
                    flipped.add((box[0] < image.shape[2] / 2) != (original[0] < WIDTH / 2))
                    seen += 1
    assert seen > 30 and flipped == {True, False}


def test_the_source_and_evaluation_have_no_boxes_of_it(root, tmp_path):
    cfg = config(root, tmp_path, results(root))
    batch = next(iter(build_mic_train_loader(cfg)))
    assert [LABELLER in x for x in batch] == [x["domain"] == "target" for x in batch]
    assert LABELLER not in DomainMapper(cfg, False, "target")(target_dicts(cfg)[0])


def test_ids_are_those_of_the_targets_json_and_classes_go_by_name(root, tmp_path):
    """The target's file has other category ids and another order than the source's."""
    content = truth_of(root)
    ids = {1: 30, 2: 20, 3: 10}  # red, green, blue
    content["categories"] = [{"id": ids[c["id"]], "name": c["name"]} for c in content["categories"]]
    content["images"] = [{**x, "id": x["id"] + 700} for x in reversed(content["images"])]
    content["annotations"] = [
        {**a, "image_id": a["image_id"] + 700, "category_id": ids[a["category_id"]]} for a in content["annotations"]
    ]
    (root / "target" / "other.json").write_text(json.dumps(content))
    entry = {"other": {"JSON": str(root / "target/other.json"), "IMAGES": str(root / "target/images")}}
    found = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.8} for a in content["annotations"]]
    del content["annotations"]  # the target's own labels are not needed: the set is a target alone
    (root / "target" / "other.json").write_text(json.dumps(content))
    cfg = config(root, tmp_path, found, target="other", custom=entry)
    names = {x["id"]: x["file_name"] for x in content["images"]}
    expected = {}
    for a in found:
        label = {30: 0, 20: 1, 10: 2}[a["category_id"]]  # the model's order is the source's: red, green, blue
        expected.setdefault(names[a["image_id"]], set()).add((label, *map(float, a["bbox"])))
    dicts = target_dicts(cfg)
    assert "annotations" not in dicts[0]
    for x in dicts:
        boxes = {
            (a["category_id"], *map(float, BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYWH_ABS)))
            for a in x[LABELLER]
        }
        assert boxes == expected[x["file_name"].rsplit("/", 1)[-1]]


def whole_file(root, changes=(), **more):
    content = truth_of(root)
    content["annotations"] = [{**a, "score": 0.7} for a in content["annotations"]]
    return {**content, **dict(changes), **more}


def test_a_whole_file_is_matched_by_file_names_and_by_names_of_classes(root, tmp_path):
    content = whole_file(root)
    content["images"] = [{**x, "id": 90 - x["id"], "file_name": f"images/{x['file_name']}"} for x in content["images"]]
    content["annotations"] = [
        {**a, "image_id": 90 - a["image_id"], "category_id": {1: 3, 2: 62, 3: 7}[a["category_id"]]}
        for a in content["annotations"]
    ]
    content["categories"] = [{"id": 3, "name": "van"}, {"id": 62, "name": "green"}, {"id": 7, "name": "boat"}]
    classes = {"red": ["van"], "green": [62]}  # boats are left out
    cfg = config(root, tmp_path, content, CLASSES=classes)
    true = truth_of(root)
    names = {x["id"]: x["file_name"] for x in true["images"]}
    wanted = {(names[a["image_id"]], a["category_id"] - 1) for a in true["annotations"] if a["category_id"] != 3}
    found = {(x["file_name"].rsplit("/", 1)[-1], a["category_id"]) for x in target_dicts(cfg) for a in x[LABELLER]}
    assert found == wanted
    lines = "\n".join(check_datasets(cfg))
    left_out = sum(a["category_id"] == 3 for a in true["annotations"])
    assert f"{left_out} of boat" in lines and f"{len(true['annotations']) - left_out} boxes (red" in lines


def test_scores_are_scaled_and_cut(root, tmp_path):
    boxes = results(root)
    for i, x in enumerate(boxes):
        x["score"] = 0.4 if i % 2 else 0.1
    cfg = config(root, tmp_path, boxes, SURE_SCORE=0.4, SCORE_THRESHOLD=0.2)
    scores = [a["score"] for x in target_dicts(cfg) for a in x[LABELLER]]
    assert len(scores) == len(boxes) // 2 and np.allclose(scores, 0.8), "0.4 means what 0.8 of the teacher means"
    cfg = config(root, tmp_path, boxes, SURE_SCORE=0.4)
    low = min(a["score"] for x in target_dicts(cfg) for a in x[LABELLER])
    assert math.isclose(low, 0.1 ** (math.log(0.8) / math.log(0.4)), rel_tol=1e-5)


def test_overlapping_boxes_of_one_class_are_suppressed(root, tmp_path):
    one = results(root)[0]
    x, y, w, h = one["bbox"]
    twice = [one, {**one, "bbox": [x + 1, y, w, h], "score": 0.5}, {**one, "category_id": one["category_id"] % 3 + 1}]
    found = [a for d in target_dicts(config(root, tmp_path, twice)) for a in d[LABELLER]]
    assert sorted(a["score"] for a in found) == pytest.approx([0.9, 0.9]), "of another class it stays"


def changed(root, **values):
    boxes = results(root)
    boxes[3] = {k: v for k, v in {**boxes[3], **values}.items() if v is not None}
    return boxes


def resized(root):
    content = whole_file(root)
    content["images"] = [{**x, "width": 640, "height": 640} for x in content["images"]]
    return content


@pytest.mark.parametrize(
    "make, keys, parts",
    [
        (lambda r: changed(r, image_id=4711), {}, ["entry 3", "4711", "no target image", "DATASETS.TARGET"]),
        (lambda r: changed(r, category_id=17), {}, ["entry 3", "17", "red, green, blue", "LABELLER.CLASSES"]),
        (lambda r: changed(r, score=87.0), {}, ["entry 3", "score 87.0", "[0, 1]"]),
        (lambda r: changed(r, score=None), {}, ["entry 3", "'score'"]),
        (lambda r: changed(r, bbox=[1, 2, "a", 3]), {}, ["entry 3", "bbox"]),
        (lambda r: changed(r, bbox=[60, 10, 90, 20]), {}, ["entry 3", "reaches out", "96 x 64"]),
        (lambda r: [{**x, "bbox": [0.1, 0.2, 0.3, 0.4]} for x in results(r)], {}, ["between 0 and 1", "multiply"]),
        (resized, {}, ["640 x 640", "96 x 64", "train_"]),
        (
            lambda r: whole_file(r, categories=[{"id": 1, "name": "red"}]),
            {},
            ["has the category", "no class of the model", "1 (red)"],
        ),
        (lambda r: whole_file(r, images=[]), {}, ["does not list"]),
        (lambda r: {"images": []}, {}, ["'annotations'"]),
        (lambda r: [], {}, ["lists no boxes"]),
        (lambda r: "{", {}, ["not a readable JSON"]),
        (results, {"JSON": "/nowhere/found.json"}, ["/nowhere/found.json", "is not there"]),
        (results, {"CLASSES": {"purple": [1]}}, ["'purple'", "red, green, blue"]),
        (results, {"CLASSES": {"red": [1], "blue": [1]}}, ["'red'", "'blue'", "one class"]),
        (whole_file, {"CLASSES": {"red": ["lorry"]}}, ["'lorry'", "1 (red)"]),
        (results, {"SCORE_THRESHOLD": 0.95}, ["no box", "0.95"]),
    ],
)
def test_what_cannot_be_right_is_refused_before_training(root, tmp_path, make, keys, parts):
    cfg = config(root, tmp_path, make(root), **keys)
    with pytest.raises((DataError, ConfigError)) as caught:
        check_datasets(cfg)
    assert all(p in str(caught.value) for p in parts), caught.value


def test_two_folders_with_files_of_one_name_need_the_folder(root, tmp_path):
    names = ["a/1.png", "b/1.png"]
    image = (root / "target/images/train_0.png").read_bytes()
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(image)
    box = (0, 0, (1.0, 2.0, 30.0, 20.0))
    content = write_coco(tmp_path / "x.json", [("b/1.png", WIDTH, HEIGHT)], [box], classes=tuple(COLORS))
    content["annotations"][0]["score"] = 0.5
    entry = {"folders": {"IMAGES": str(tmp_path / "images")}}
    dicts = target_dicts(config(root, tmp_path, content, target="folders", custom=entry))
    assert [len(x[LABELLER]) for x in dicts] == [0, 1]
    content["images"][0]["file_name"] = "1.png"
    with pytest.raises(DataError, match="may belong to .*a/1.png or to .*b/1.png"):
        check_datasets(config(root, tmp_path, content, target="folders", custom=entry))


def test_ids_of_a_list_are_never_counted_by_us(root, tmp_path):
    """A folder and a list of names have no ids: results for 1, 2, ... could be those of the image before."""
    names = {"images": [{"file_name": f"train_{i}.png"} for i in range(8)]}
    (root / "names.json").write_text(json.dumps(names))
    images = str(root / "target/images")
    custom = {"folder": {"IMAGES": images}, "names": {"JSON": str(root / "names.json"), "IMAGES": images}}
    for name in custom:
        with pytest.raises(DataError, match="belongs to no target image.*train_0.png.*whole COCO file"):
            check_datasets(config(root, tmp_path, results(root), target=name, custom=custom))
        named = [{**x, "image_id": f"train_{x['image_id'] - 1}.png"} for x in results(root)]
        found = target_dicts(config(root, tmp_path, named, target=name, custom=custom))
        counts = {x["file_name"].rsplit("/", 1)[-1]: len(x[LABELLER]) for x in found if x[LABELLER]}
        assert counts == {f"train_{i}.png": sum(a["image_id"] == i + 1 for a in results(root)) for i in range(8)}


def test_instances_of_no_box():
    empty = labeller_instances([], (4, 6))
    assert len(empty) == 0 and empty.pred_boxes.tensor.shape == (0, 4) and empty.image_size == (4, 6)
    assert empty.pred_classes.dtype == torch.int64
    out = labeller_instances([{"bbox": [2.0, 2.0, 2.0, 5.0], "category_id": 0, "score": 0.5}], (9, 9))
    assert len(out) == 0, "what a crop leaves without an area is no box"


def test_a_mapping_of_classes_on_the_command_line():
    cfg = load_config("minicity/labeller.yaml", ["MODEL.MIC.LABELLER.CLASSES", "{'car': ['van', 3]}"])
    assert dict(cfg.MODEL.MIC.LABELLER.CLASSES) == {"car": ["van", 3]}
    with pytest.raises(ConfigError, match="CLASSES.*mapping of the model's class names to lists"):
        load_config("minicity/labeller.yaml", ["MODEL.MIC.LABELLER.CLASSES", "{'car': 3}"])


def test_without_a_labeller_nothing_is_added(root, tmp_path):
    cfg = config(root, tmp_path, results(root), JSON="")
    dicts = [{"file_name": "a", "image_id": 0}]
    assert add_labeller(cfg, dicts, dicts) == [] and LABELLER not in dicts[0]
