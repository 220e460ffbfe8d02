"""Keypoints of the miniature city: where figures are drawn, what covers them, and files with and without them."""

import hashlib
import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mic_det.data.custom_sets import register_declared_datasets
from mic_det.data.datasets.cityscapes import cityscapes_to_coco
from mic_det.data.keypoints import keypoint_lines
from mic_det.data.minicity import make_minicity, render_scene, scene, sprites
from mic_det.data.minicity.keypoints import CLASSES, KEYPOINTS, SIGMAS, SKELETON, mirrored, with_visibility
from mic_det.data.minicity.scene import Item
from mic_det.data.minicity.sprites import Canvas
from mic_det.data.minicity.writer import scene_rng
from mic_det.data.run_sets import check_datasets
from mic_det.engine.setup import load_config
from mic_det.errors import DataError

pytestmark = pytest.mark.slow
# of a scene that the generator drew without keypoints, with this version of OpenCV
VERSION, HASH = "5.0", "3be3fa05bc3d6881c58e481b4765dc5b86ab2a3310704009be20c8033e830ed2"


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    root = tmp_path_factory.mktemp("city")
    make_minicity(root, 3, 1, (256, 128), seed=3, workers=1, progress=False)
    return root


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in arrays)).hexdigest()


def test_keypoints_change_no_pixel_and_no_random_number(monkeypatch):
    rng = np.random.default_rng(7)
    found = render_scene(rng, (256, 128))
    after = rng.random()
    assert found.keypoints
    monkeypatch.setattr(Canvas, "mark", lambda *args: None)  # as before there were keypoints
    rng = np.random.default_rng(7)
    plain = render_scene(rng, (256, 128))
    assert not plain.keypoints and rng.random() == after
    for name in ("image", "instance_ids", "label_ids", "depth"):
        assert (getattr(plain, name) == getattr(found, name)).all()
    assert [(a, b.tolist()) for a, b in plain.polygons] == [(a, b.tolist()) for a, b in found.polygons]


@pytest.mark.skipif(not cv2.__version__.startswith(VERSION), reason="another OpenCV may draw other pixels")
def test_a_scene_has_the_pixels_of_the_version_before_keypoints():
    made = render_scene(scene_rng(3, "train", 1), (256, 128))
    assert digest(made.image, made.instance_ids, made.label_ids, made.depth.astype(np.float32)) == HASH


def test_the_other_annotations_are_those_of_the_instance_maps(city):
    for split, dir_name, suffix, name in (
        ("train", "leftImg8bit", "leftImg8bit.png", "instances_train.json"),
        ("val", "leftImg8bit_foggy", "leftImg8bit_foggy_beta_0.02.png", "instances_foggy_0.02_val.json"),
    ):
        content = json.loads((city / "annotations" / name).read_text())
        figures = [c["id"] for c in content["categories"] if c.pop("keypoints", None) and c.pop("skeleton")]
        assert [c["name"] for c in content["categories"] if c["id"] in figures] == list(CLASSES)
        for a in content["annotations"]:
            keypoints, count = a.pop("keypoints", None), a.pop("num_keypoints", None)
            assert (keypoints is not None) == (count is not None) == (a["category_id"] in figures)
            if keypoints:
                assert len(keypoints) == 27 and count == sum(v > 0 for v in keypoints[2::3])
        assert content == cityscapes_to_coco(city, split, dir_name, suffix)


@pytest.mark.parametrize("seed", range(4))
def test_feet_hands_and_head_are_where_a_person_is_drawn(seed):
    canvas = Canvas(360, 1000)
    sprites.person(canvas, np.random.default_rng(seed))
    solid, points = canvas.rgba[:, :, 3] > 0, canvas.keypoints
    assert set(points) == set(KEYPOINTS)
    head = np.flatnonzero(solid[: round(0.18 * 1000)].any(axis=0))
    assert points["head"][0] == pytest.approx((head[0] + head[-1] + 1) / 2, abs=1.5)
    rows = np.flatnonzero(solid[:, 175])
    assert rows[0] < points["head"][1] < 0.185 * 1000
    row = np.flatnonzero(solid[960])
    left, right = points["left_foot"], points["right_foot"]  # it looks at us: its left is our right
    assert left[0] > right[0] and left[1] == right[1] == pytest.approx(960.5)
    # the outer border of each leg is a tenth of the width, less what the leg widens until there, from its middle
    half = (0.1 * 0.92 + 0.1 * 0.08) * 360
    assert row[-1] + 0.5 - left[0] == pytest.approx(half, abs=1.5) == right[0] - row[0] - 0.5
    row = np.flatnonzero(solid[520])
    assert row[-1] - 0.06 * 1000 < points["left_hand"][0] < row[-1] and points["left_hand"][1] == pytest.approx(520.5)
    for name in ("left_shoulder", "right_shoulder", "left_hip", "right_hip"):
        x, y = points[name]
        assert solid[int(y), int(x)]


def test_a_rider_is_drawn_at_its_keypoints_and_its_mirror_image_has_them_on_the_other_side():
    canvas = Canvas(330, 600)
    sprites.rider(canvas, np.random.default_rng(2))
    found = mirrored(canvas.keypoints, 330)
    assert set(found) == set(canvas.keypoints) == set(KEYPOINTS)
    assert abs(canvas.keypoints["head"][0] - 165) > 3, "it leans: mirroring changes something"
    for points, picture in ((canvas.keypoints, canvas.rgba), (found, canvas.rgba[:, ::-1])):
        for x, y in points.values():
            assert picture[int(y), int(x), 3] > 0
        for part in ("shoulder", "hand", "hip", "foot"):
            assert points[f"left_{part}"][0] > points[f"right_{part}"][0]
    assert found["left_hand"] == (330 - canvas.keypoints["right_hand"][0], canvas.keypoints["right_hand"][1])


def test_visibility_by_hand():
    front = np.full((4, 6), -1)
    front[1, 1], front[1, 2], front[1, 3] = 5, 3, 2  # nearer, the figure itself, farther
    points = dict.fromkeys(KEYPOINTS, (2.5, 1.5))
    points.update(head=(1.9, 1.1), left_shoulder=(3.0, 1.9), right_shoulder=(-0.1, 1.5), left_hand=(6.0, 1.5),
                  right_hand=(5.9, 3.9), left_hip=(2.5, 4.0))  # fmt: skip
    rows = with_visibility(points, 3, front)
    assert rows[:6].tolist() == [[1.9, 1.1, 1], [3.0, 1.9, 2], [0, 0, 0], [0, 0, 0], [5.9, 3.9, 2], [0, 0, 0]]
    assert rows[6:].tolist() == [[2.5, 1.5, 2]] * 3


def test_a_nearer_box_covers_the_keypoints_behind_it_and_a_farther_one_does_not(monkeypatch):
    """A person at 12 m; a plain box at 6 m whose left border is in the middle of the person, or the same at 24 m."""

    def plain(canvas, rng):
        canvas.box(0, 0, 1, 1, (90, 90, 90))

    for distance in (6.0, 24.0):

        def place(street, rng, z=distance):
            return [Item("person", sprites.person, street.offset, 12.0, 0.65, 1.8),
                    Item("pole", plain, street.offset + z / 12 * 1.0, z, z / 12 * 2.0, 3.0)]  # fmt: skip

        monkeypatch.setattr(scene, "place_items", place)
        found = render_scene(11, (512, 256))
        (rows,) = found.keypoints.values()
        camera = found.camera
        border = round(float(camera.project(0.0, 0.0, distance)[0]))
        top = round(float(camera.project(0.0, 3.0, distance)[1]))
        right = border + round(distance / 12 * 2.0 * camera.f / distance)
        for x, y, visibility in rows:
            behind = distance < 12 and border <= int(x) < right and int(y) >= top
            assert visibility == (1 if behind else 2)
        u0, v0 = camera.project(-0.325, 1.8, 12.0)
        assert rows[0, 0] == pytest.approx(float(u0 + 0.325 * camera.f / 12), abs=1)  # the head is in the middle
        assert rows[0, 1] == pytest.approx(float(v0 + 0.095 * 1.8 * camera.f / 12), abs=1)
        if distance < 12:
            covered = {name for name, v in zip(KEYPOINTS, rows[:, 2]) if v == 1}
            assert {"left_shoulder", "left_hand"} <= covered and not {"right_shoulder", "right_hand"} & covered


def config(root, keypoints=True):
    name = "keypoint_source_strong_start" if keypoints else "source_only"
    places = {"JSON": str(root / "annotations/instances_train.json"), "IMAGES": str(root / "leftImg8bit")}
    cfg = load_config(f"minicity/{name}.yaml", ["DATASETS.TEST", ("minicity_clear_train",)])
    cfg.DATASETS.CUSTOM.minicity_clear_train.update(places)
    register_declared_datasets(cfg)
    return cfg


def test_a_set_has_the_keypoints_of_the_scenes_and_their_metadata(city, clean_catalogs):
    cfg = config(city)
    check_datasets(cfg)
    dicts = {d["file_name"].split("/")[-1]: d for d in DatasetCatalog.get("minicity_clear_train")}
    compared = 0
    for k, name in enumerate(("altstedt_000000", "brookfield_000001", "carville_000002")):
        made = render_scene(scene_rng(3, "train", k), (256, 128))
        (d,) = (x for n, x in dicts.items() if n.startswith(name))
        own = [np.reshape(a["keypoints"], (9, 3)) for a in d["annotations"] if "keypoints" in a]
        expected = [made.keypoints[i] for i in sorted(made.keypoints)]
        assert len(own) == len(expected)
        for rows, truth in zip(own, expected):
            assert (rows[:, 2] == truth[:, 2]).all()
            assert np.abs(rows[:, :2] - truth[:, :2])[truth[:, 2] > 0].max() <= 0.00051
            compared += 1
    assert compared >= 3
    meta = MetadataCatalog.get("minicity_clear_train")
    assert meta.keypoint_names == list(KEYPOINTS) and meta.keypoint_classes == list(CLASSES)
    sides = {("left_" + x, "right_" + x) for x in ("shoulder", "hand", "hip", "foot")}
    assert set(meta.keypoint_flip_map) == sides
    assert [x[:2] for x in meta.keypoint_connection_rules] == list(SKELETON)
    assert [(KEYPOINTS[i], KEYPOINTS[j]) for i, j in keypoint_lines("minicity_clear_train")] == list(SKELETON)
    assert tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS) == SIGMAS and cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS == len(KEYPOINTS)


def test_a_city_of_an_earlier_version_trains_boxes_and_gets_its_keypoints_by_another_call(tmp_path, clean_catalogs):
    root = tmp_path / "minicity"
    make_minicity(root, 2, 0, (256, 128), seed=3, workers=1, progress=False)
    files = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    for file in root.rglob("*_keypoints.json"):
        file.unlink()
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        for x in (*content["annotations"], *content["categories"]):
            for key in ("keypoints", "num_keypoints", "skeleton"):
                x.pop(key, None)
        file.write_text(json.dumps(content))
    check_datasets(config(root, keypoints=False))
    with pytest.raises(DataError, match="has no keypoints, but MODEL.KEYPOINT_ON.*run datasets/make_minicity.py again"):
        check_datasets(config(root))
    make_minicity(root, 2, 0, (256, 128), seed=3, workers=1, progress=False)
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == files
    check_datasets(config(root))
