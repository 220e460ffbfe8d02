"""CamVid on a small tree of the public layout: boxes by hand and by brute force, fog by the formula, sets, refusals."""

import json
import math

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from helpers.data import refusal_here, run_tool_here
from mic_det.data.datasets.camvid import (
    AIRLIGHT,
    SEM_SEG_CLASSES,
    SETS,
    THING_CLASSES,
    boxes_of_labels,
    prepare_camvid,
)
from mic_det.data.datasets.camvid_distance import HORIZON, distance_from_labels
from mic_det.errors import DataError

HEIGHT, WIDTH = 50, 80
SKY, BUILDING, ROAD, TREE, CAR, PERSON, BICYCLE, VOID = 0, 1, 3, 5, 8, 9, 10, 11
# (label, x, y, width, height), painted in this order
SCENE = [
    (SKY, 0, 0, 80, 23), (ROAD, 0, 23, 80, 27),
    (PERSON, 10, 26, 5, 12),  # 60 pixels: just enough
    (PERSON, 20, 26, 6, 6), (PERSON, 26, 32, 4, 6),  # they touch at a corner: one box of 10 x 12
    (CAR, 40, 30, 10, 6),  # 60 pixels, 6 rows: just enough
    (CAR, 55, 30, 20, 5), (CAR, 33, 26, 4, 20), (CAR, 60, 40, 7, 8),  # flat, narrow, 56 pixels
    (VOID, 0, 40, 9, 10),
]  # fmt: skip
BOXES = [(1, [10, 26, 5, 12], 60), (1, [20, 26, 10, 12], 60), (2, [40, 30, 10, 6], 60)]
NAMES = {
    "train": ["0001TP_006690", "0001TP_006720", "0006R0_f00930", "0016E5_00390"],
    "val": ["0016E5_07959"],
    "test": ["0001TP_008550", *(f"Seq05VD_f{i:05d}" for i in (0, 30, 60, 90, 120))],
}
CHOSEN = {
    "camvid_day_train": ["0006R0_f00930", "0016E5_00390"],
    "camvid_day_val": ["0016E5_07959"],
    "camvid_fog_train": ["Seq05VD_f00000", "Seq05VD_f00030"],  # the middle one of five is in neither half
    "camvid_fog_val": ["Seq05VD_f00090", "Seq05VD_f00120"],
    "camvid_dusk_train": ["0001TP_006690", "0001TP_006720"],
    "camvid_dusk_val": ["0001TP_008550"],
}


def paint(scene, size=(HEIGHT, WIDTH)):
    labels = np.full(size, VOID, np.uint8)
    for label, x, y, w, h in scene:
        labels[y : y + h, x : x + w] = label
    return labels


def write_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def read(path):
    with Image.open(path) as opened:
        return np.asarray(opened)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "däten"))
    folder = tmp_path / "däten/camvid"
    for seed, (split, stem) in enumerate((s, n) for s, names in NAMES.items() for n in names):
        picture = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        write_png(folder / split / f"{stem}.png", picture)
        write_png(folder / f"{split}annot" / f"{stem}.png", paint(SCENE))
    return folder


def prepare(root, **kwargs):
    return prepare_camvid(root, workers=1, progress=False, **kwargs)


# ------------------------------------------------------------------------------------------- boxes


def test_sets_boxes_and_label_maps_by_hand(root):
    contents = prepare(root)
    assert contents.keys() == SETS.keys()
    for name, content in contents.items():
        assert json.loads((root / f"annotations/{name}.json").read_text()) == content
        stems = [x["file_name"].split("/")[1].split(".png")[0].split("_foggy")[0] for x in content["images"]]
        assert stems == CHOSEN[name]
        assert [(x["id"], x["height"], x["width"]) for x in content["images"]] == [
            (i, HEIGHT, WIDTH) for i in range(1, len(stems) + 1)
        ]
        assert [c["name"] for c in content["categories"]] == ["person", "car", "bicycle"]
        if name == "camvid_dusk_train":
            assert "annotations" not in content
            continue
        found = [(a["image_id"], a["category_id"], a["bbox"], a["area"]) for a in content["annotations"]]
        assert found == [(x["id"], *box) for x in content["images"] for box in BOXES]
        assert [a["id"] for a in content["annotations"]] == list(range(1, len(found) + 1))
    label_map = read(root / "label_maps/train/0006R0_f00930.png")
    expected = paint(SCENE)
    expected[expected == VOID] = 255
    assert label_map.dtype == np.uint8 and (label_map == expected).all()
    assert not (root / "label_maps/train/0001TP_006690.png").exists()  # dusk's training set has no labels


def test_boxes_equal_a_flood_fill():
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(4):
        # blobs of all sizes around the least ones
        labels = rng.choice([ROAD, CAR, PERSON, BICYCLE], size=(12, 16)).repeat(4, axis=0).repeat(4, axis=1)
        labels = np.where(rng.random(labels.shape) < 0.1, ROAD, labels).astype(np.uint8)
        found = [(a["category_id"], *a["bbox"], a["area"]) for a in boxes_of_labels(labels)]
        expected = flood_fill(labels)
        sizes += expected
        assert sorted(found) == sorted(expected)
    assert len(sizes) > 20


def flood_fill(labels):
    seen, boxes = set(), []
    for start in np.ndindex(*labels.shape):
        label = int(labels[start])
        if start in seen or label not in (CAR, PERSON, BICYCLE):
            continue
        seen.add(start)
        stack, pixels = [start], []
        while stack:
            y, x = stack.pop()
            pixels.append((y, x))
            for p in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if 0 <= p[0] < labels.shape[0] and 0 <= p[1] < labels.shape[1] and labels[p] == label and p not in seen:
                    seen.add(p)
                    stack.append(p)
        ys, xs = [p[0] for p in pixels], [p[1] for p in pixels]
        w, h = max(xs) - min(xs) + 1, max(ys) - min(ys) + 1
        if len(pixels) >= 60 and w >= 5 and h >= 6:
            boxes.append((1 + [PERSON, CAR, BICYCLE].index(label), min(xs), min(ys), w, h, len(pixels)))
    return boxes


# --------------------------------------------------------------------------------------------- fog


def by_hand(row, x, y):
    """Distance at pixel (x, y) of what stands on the road at ``row``: a camera at 1.5 m, focal length 80 pixels."""
    depth = 1.5 * WIDTH / (row - 23)
    return depth * math.sqrt(1 + ((x - 39.5) / WIDTH) ** 2 + ((y - 23) / WIDTH) ** 2)


def test_fog_is_the_formula_of_distances_by_hand(root):
    assert HORIZON * HEIGHT == 23
    prepare(root)
    clear = read(root / "test/Seq05VD_f00090.png").astype(float)
    foggy = read(root / "foggy/Seq05VD_f00090_foggy_beta_0.05.png")
    # road; the person's head and feet stand at row 37, the car at row 35
    for row, x, y in ((49, 70, 49), (24, 70, 24), (37, 12, 26), (37, 12, 37), (35, 45, 31)):
        t = math.exp(-0.05 * by_hand(row, x, y))
        np.testing.assert_allclose(foggy[y, x], clear[y, x] * t + np.array(AIRLIGHT) * (1 - t), atol=0.51)
    assert (foggy[:22] == np.array(AIRLIGHT)).all()  # the sky


def test_walls_get_farther_along_the_street_and_hidden_feet_are_interpolated():
    labels = paint([(SKY, 0, 0, 80, 23), (ROAD, 0, 23, 80, 27)])
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    feet = np.linspace(45, 29, 40).astype(int)  # of a building on the left, column by column
    for x, foot in enumerate(feet):
        labels[5 : foot + 1, x] = BUILDING
    labels[28:50, 10:26] = CAR  # hides the wall's foot
    distance = distance_from_labels(labels, SEM_SEG_CLASSES, image)
    reach = 4  # 5 % of the width
    for x in (0, 5, 31, 35, 39):  # each column takes the nearest foot within reach: that of the left end
        assert distance[8, x] == pytest.approx(by_hand(feet[max(0, x - reach)], x, 8))
    assert (np.diff(distance[8, :40]) >= -0.05).all()
    # column 18 takes that of column 14, whose foot is interpolated (as 1 / depth, a line in rows) between 9 and 26
    foot = feet[9] + (14 - 9) / (26 - 9) * (feet[26] - feet[9])
    assert distance[8, 18] == pytest.approx(by_hand(foot, 18, 8))
    assert distance[40, 13] == pytest.approx(by_hand(49, 13, 40))
    assert np.isinf(distance[2, 60]) and (distance > 0).all()


def test_what_hangs_above_the_horizon_is_as_far_as_its_class_and_void_as_its_surroundings():
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    labels = paint([(SKY, 0, 0, 80, 23), (ROAD, 0, 23, 80, 27), (TREE, 60, 10, 8, 30), (TREE, 70, 4, 3, 3)])
    labels[40:43, 20:23] = VOID
    distance = distance_from_labels(labels, SEM_SEG_CLASSES, image)
    assert distance[5, 71] == pytest.approx(by_hand(39, 71, 5))  # the branch: as the tree that stands at row 39
    assert by_hand(45, 21, 41) < distance[41, 21] < by_hand(37, 21, 41)
    nothing = np.full((HEIGHT, WIDTH), VOID, np.uint8)
    assert np.isinf(distance_from_labels(nothing, SEM_SEG_CLASSES, image)).all()


# ----------------------------------------------------------------------------- files and refusals


def test_a_second_call_changes_nothing_and_other_files_stay(root):
    prepare(root)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}
    assert sum("foggy" in p.parts for p in before) == 4
    prepare(root)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()} == before
    mine = root / "annotations/camvid_fog_val.json"
    mine.write_text("mine")
    with pytest.raises(DataError, match="camvid_fog_val.json is there already.*--overwrite"):
        prepare(root)
    assert mine.read_text() == "mine"
    prepare(root, overwrite=True)
    assert mine.read_bytes() == before[mine][0]


def test_another_beta_is_another_file(root):
    prepare(root)
    (image, _) = prepare(root, beta="0.02")["camvid_fog_val"]["images"]
    assert image["file_name"] == "foggy/Seq05VD_f00090_foggy_beta_0.02.png" and (root / image["file_name"]).is_file()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: (r / "valannot").rename(r / "other"), "there is no folder .*valannot: CamVid in SegNet's layout"),
        (lambda r: (r / "val/0016E5_07959.png").rename(r / "val/val_00001.png"), "camvid_day_val: no image 0016E5_"),
        (lambda r: (r / "testannot/Seq05VD_f00090.png").unlink(), "testannot/Seq05VD_f00090.png is missing"),
        (lambda r: (r / "trainannot/0006R0_f00930.png").write_bytes(b"x"), "0006R0_f00930.png cannot be read as an"),
        (lambda r: (r / "val/0016E5_07959.png").write_bytes(b""), "val/0016E5_07959.png cannot be read"),
        (lambda r: write_png(r / "valannot/0016E5_07959.png", paint([], (9, 9))), "shape .9, 9.*size of .*50, 80"),
        (lambda r: write_png(r / "valannot/0016E5_07959.png", np.zeros((50, 80, 3), np.uint8)), "one channel"),
        (
            lambda r: write_png(r / "valannot/0016E5_07959.png", paint([(31, 0, 0, 1, 1)])),
            "label 31: labels are 0 to 11",
        ),
    ],
)
def test_what_is_missing_or_broken_is_named(root, change, message):
    change(root)
    with pytest.raises(DataError, match=message):
        prepare(root)
    assert not (root / "annotations").exists()


def test_the_registered_sets(root):
    with pytest.raises(DataError, match="camvid_day_val: .*annotations.camvid_day_val.json is missing.*prepare_camvid"):
        DatasetCatalog.get("camvid_day_val")
    prepare(root)
    for name, stems in CHOSEN.items():
        dicts = DatasetCatalog.get(name)
        assert len(dicts) == len(stems) and all((root / x["file_name"]).is_file() for x in dicts)
        labelled = name != "camvid_dusk_train"
        for x in dicts:
            assert ("annotations" in x) == ("sem_seg_file_name" in x) == labelled
            if labelled:
                assert [(a["category_id"] + 1, a["bbox"], a["area"]) for a in x["annotations"]] == BOXES
                assert (read(x["sem_seg_file_name"])[40:, :9] == 255).all()
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes == list(THING_CLASSES) and metadata.stuff_classes == list(SEM_SEG_CLASSES)
        assert metadata.evaluator_type == "coco" and metadata.ignore_label == 255


def test_the_program_and_its_refusals(root, monkeypatch, capsys):
    tool = "../datasets/prepare_camvid.py"
    run_tool_here(tool, "--workers", 1, monkeypatch=monkeypatch)
    captured = capsys.readouterr()
    assert "camvid_fog_val: 2 images, 6 boxes (person 4, car 2, bicycle 0)" in captured.out
    assert "camvid_dusk_train: 2 images, no labels" in captured.out
    assert "the public folder has 305 images of camvid_day_train, but this one has 2" in captured.err
    (root / "test").rename(root / "tests")
    assert "there is no folder" in refusal_here(tool, "--workers", 1, monkeypatch=monkeypatch)
    for wrong in (["--beta", "thick"], ["--beta", "-1"], ["--workers", 0]):
        with pytest.raises(SystemExit) as caught:
            run_tool_here(tool, *wrong, monkeypatch=monkeypatch)
        assert caught.value.code == 2
