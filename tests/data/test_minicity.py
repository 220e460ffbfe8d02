"""The miniature city: geometry, annotations and files against independent computations."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mic_det.data.datasets.cityscapes_labels import LABELS, THING_CLASSES, THING_IDS
from mic_det.data.fog import add_fog, depth_to_distance, disparity_to_depth
from mic_det.data.minicity import make_minicity, render_scene, writer
from mic_det.data.minicity.camera import Camera
from mic_det.data.minicity.writer import scene_rng
from mic_det.errors import MinicityError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    root = tmp_path_factory.mktemp("city")
    return root, make_minicity(root, 6, 2, (256, 128), seed=3, workers=1, progress=False)


def digest(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def load(path):
    return np.asarray(Image.open(path))


def test_files_are_laid_out_as_in_cityscapes(city):
    root, _ = city
    stems = sorted(p.name[: -len("leftImg8bit.png")] for p in (root / "leftImg8bit" / "train").rglob("*.png"))
    assert len(stems) == 6
    for stem in stems:
        place = f"train/{stem.split('_')[0]}/{stem}"
        for kind in ("polygons.json", "instanceIds.png", "labelIds.png"):
            assert (root / "gtFine" / f"{place}gtFine_{kind}").is_file()
        for folder, suffix in (("disparity", "disparity.png"), ("camera", "camera.json"),
                               ("leftImg8bit_foggy", "leftImg8bit_foggy_beta_0.02.png")):  # fmt: skip
            assert (root / folder / f"{place}{suffix}").is_file()
    assert load(root / "disparity" / f"{place}disparity.png").dtype == np.uint16
    cities = [{p.name for p in (root / "leftImg8bit" / split).iterdir()} for split in ("train", "val")]
    assert not cities[0] & cities[1]


def test_polygons_painted_in_order_give_the_label_map(city):
    root, _ = city
    for file in (root / "gtFine").rglob("*_polygons.json"):
        content = json.loads(file.read_text())
        painted = np.zeros((content["imgHeight"], content["imgWidth"]), np.uint8)
        for thing in content["objects"]:
            cv2.fillPoly(painted, [np.array(thing["polygon"], np.int32)], LABELS[thing["label"]][0])
        assert (painted == load(str(file).replace("polygons.json", "labelIds.png"))).all()


def test_instance_and_label_maps_agree(city):
    root, _ = city
    for file in (root / "gtFine").rglob("*_instanceIds.png"):
        ids, labels = load(file).astype(int), load(str(file).replace("instanceIds", "labelIds"))
        assert (np.where(ids >= 1000, ids // 1000, ids) == labels).all()
        assert set(ids[ids >= 1000] // 1000) <= set(THING_IDS.values())


def test_fog_is_the_fog_model_on_the_exact_depth(city):
    root, _ = city
    scene = render_scene(scene_rng(3, "train", 1), (256, 128))
    distance = depth_to_distance(scene.depth, scene.camera.f, scene.camera.f, scene.camera.u0, scene.camera.v0)
    folder = root / "leftImg8bit_foggy" / "train" / "brookfield"
    written = load(folder / "brookfield_000001_000019_leftImg8bit_foggy_beta_0.02.png")
    clear = load(root / "leftImg8bit" / "train" / "brookfield" / "brookfield_000001_000019_leftImg8bit.png")
    assert (clear == scene.image).all()
    t = np.exp(-0.02 * distance)[:, :, None]
    assert np.abs(written - (clear * t + np.array(scene.airlight) * (1 - t))).max() <= 0.5 + 1e-3
    assert (written == add_fog(clear, distance, 0.02, scene.airlight)).all()


def test_disparity_gives_the_depth_back(city):
    root, _ = city
    scene = render_scene(scene_rng(3, "val", 0), (256, 128))
    file = root / "disparity" / "val" / "eastport" / "eastport_000000_000019_disparity.png"
    camera = json.loads((root / "camera" / "val" / "eastport" / "eastport_000000_000019_camera.json").read_text())
    depth = disparity_to_depth(load(file), camera["extrinsic"]["baseline"], camera["intrinsic"]["fx"])
    valid = ~np.isnan(depth)
    assert 0.9 < valid.mean() < 1
    near = valid & (scene.depth < 30)
    np.testing.assert_allclose(depth[near], scene.depth[near], rtol=0.01)


def test_size_shrinks_with_depth():
    camera = Camera(512, 256)
    heights = [camera.project(0, 0, z)[1] - camera.project(0, 1.8, z)[1] for z in (10, 20, 40)]
    assert heights[0] == pytest.approx(1.8 * camera.f / 10)
    assert heights[0] == pytest.approx(2 * heights[1]) and heights[1] == pytest.approx(2 * heights[2])


def test_nearer_things_cover_farther_ones():
    seen = 0
    for k in range(12):
        scene = render_scene(np.random.default_rng(k), (256, 128))
        for value in np.unique(scene.instance_ids[scene.instance_ids >= 1000]):
            depths = np.unique(scene.depth[scene.instance_ids == value])
            # an upright thing has one depth, unless something unlabelled stands before it
            assert depths.min() >= 5 and len(depths) <= 3
            seen += 1
    assert seen > 20


def test_of_two_things_at_one_pixel_the_nearer_one_is_annotated():
    overlaps = 0
    for k in range(20):
        scene = render_scene(k, (256, 128))
        area = np.zeros(scene.depth.shape, bool)
        for label, outline in reversed(scene.polygons):  # nearest first
            if label not in THING_CLASSES:
                continue
            mask = np.zeros(area.shape, np.uint8)
            cv2.fillPoly(mask, [outline], 1)
            mine, covered = scene.depth[(mask > 0) & ~area], scene.depth[(mask > 0) & area]
            if len(mine) and len(covered):
                overlaps += 1
                # what something else covers shows that thing's depth, which is less
                assert covered.max() <= np.median(mine) + 1e-6
            area |= mask > 0
    assert overlaps > 20


def test_a_seed_is_as_good_as_a_generator():
    by_seed, by_generator = render_scene(5, (128, 64)), render_scene(np.random.default_rng(5), (128, 64))
    assert (by_seed.image == by_generator.image).all()
    assert (by_seed.image != render_scene(6, (128, 64)).image).any()


def test_things_of_one_class_come_in_all_colours_of_the_others():
    means = {name: [] for name in THING_CLASSES}
    for k in range(60):
        scene = render_scene(np.random.default_rng(k), (256, 128))
        for value in np.unique(scene.instance_ids[scene.instance_ids >= 1000]):
            name = next(n for n, i in THING_IDS.items() if i == value // 1000)
            means[name].append(scene.image[scene.instance_ids == value].mean())
    centers = np.array([np.mean(v) for v in means.values()])
    spreads = np.array([np.std(v) for v in means.values()])
    assert all(len(v) >= 5 for v in means.values())  # every class occurs
    assert np.ptp(centers) < 2.5 * spreads.min() + 25  # brightness alone does not tell them apart


def test_any_number_of_workers_gives_the_same_bytes_and_a_second_call_changes_nothing(city, tmp_path):
    root, summary = city
    again = make_minicity(tmp_path / "two", 6, 2, (256, 128), seed=3, workers=2, progress=False)
    assert again == summary
    assert digest(tmp_path / "two") == digest(root)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.png")}
    make_minicity(root, 6, 2, (256, 128), seed=3, workers=1, progress=False)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.png")} == before


def test_an_interrupted_city_is_completed(city, tmp_path):
    root, _ = city
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    lost = copy / "camera" / "train" / "carville" / "carville_000002_000019_camera.json"
    lost.unlink()  # the last file of an image
    (copy / "leftImg8bit" / "train" / "carville" / "carville_000002_000019_leftImg8bit.png").unlink()
    make_minicity(copy, 6, 2, (256, 128), seed=3, workers=1, progress=False)
    assert digest(copy) == digest(root)


def test_an_image_with_a_lost_file_is_made_again(city, tmp_path):
    root, _ = city
    for lost in ("leftImg8bit/*/*/*_000001_*.png", "gtFine/*/*/*_000003_*_labelIds.png", "leftImg8bit_foggy/*/*/*.png"):
        copy = tmp_path / lost.split("/")[0]
        shutil.copytree(root, copy)
        for file in copy.glob(lost):
            file.unlink()
        make_minicity(copy, 6, 2, (256, 128), seed=3, workers=1, progress=False)
        assert digest(copy) == digest(root)


def test_overwriting_leaves_nothing_of_the_other_city_even_when_interrupted(tmp_path, monkeypatch):
    def make(name, seed, number, **kwargs):
        make_minicity(tmp_path / name, number, 1, (64, 32), seed=seed, workers=1, progress=False, **kwargs)
        return digest(tmp_path / name)

    fresh = make("fresh", 2, 2)
    make("direct", 1, 4)
    note = tmp_path / "direct" / "leftImg8bit" / "train" / "carville" / "notes.txt"
    note.write_text("mine")
    assert make("direct", 2, 2, overwrite=True).keys() - fresh.keys() == {str(note.relative_to(tmp_path / "direct"))}
    note.unlink()
    note.parent.rmdir()
    make("direct", 2, 2)
    assert digest(tmp_path / "direct") == fresh

    make("stopped", 1, 4)
    with monkeypatch.context() as patch:
        made = []

        def interrupted(job, real=writer._make_image):
            if made:
                raise KeyboardInterrupt
            made.append(real(job))

        patch.setattr(writer, "_make_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make("stopped", 2, 2, overwrite=True)
    assert make("stopped", 2, 2) == fresh


def test_a_folder_with_other_images_is_never_taken(tmp_path):
    image = tmp_path / "leftImg8bit" / "train" / "aachen" / "aachen_000000_000019_leftImg8bit.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(MinicityError, match="no minicity.json.*choose another folder"):
            make_minicity(tmp_path, 1, 0, (64, 32), overwrite=overwrite, workers=1, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["leftImg8bit"] and image.read_bytes() == b"mine"


def test_a_note_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "minicity.json").write_text("{")
    with pytest.raises(MinicityError, match="minicity.json cannot be read.*--overwrite"):
        make_minicity(tmp_path, 1, 0, (64, 32), workers=1, progress=False)
    make_minicity(tmp_path, 1, 0, (64, 32), workers=1, progress=False, overwrite=True)


@pytest.mark.parametrize(
    "changes, message",
    [({"num_train": -1}, "-1 train"), ({"num_train": 0, "num_val": 0}, "at least one"), ({"size": (0, 32)}, "0 x 32"),
     ({"betas": (-0.1,)}, "densities"), ({"betas": (float("nan"),)}, "densities"), ({"betas": (0, 0.0)}, "densities"),
     ({"seed": -1}, "seed"), ({"workers": 0}, "0 workers")],
)  # fmt: skip
def test_arguments_out_of_range_are_named_and_nothing_is_written(tmp_path, changes, message):
    arguments = {"num_train": 1, "num_val": 1, "size": (64, 32), "workers": 1, **changes}
    with pytest.raises(MinicityError, match=message):
        make_minicity(tmp_path / "city", progress=False, **arguments)
    assert not (tmp_path / "city").exists()


def test_an_interrupt_at_the_keyboard_ends_the_program_without_a_traceback_and_leaves_whole_files(tmp_path):
    program = Path(__file__).parents[2] / "datasets" / "make_minicity.py"
    command = [sys.executable, program, "--output", tmp_path, "--train", "500", "--workers", "2",
               "--width", "128", "--height", "64"]  # fmt: skip
    # a shell's background jobs ignore the signal, and would hand that on
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not (tmp_path / "minicity.json").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1)  # the workers are starting, which takes seconds; an interrupt then is the hardest to survive
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the program and its workers
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "Call the same command again to continue" in err
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "annotations").exists()


def test_another_recipe_or_number_in_the_same_folder_is_refused(city):
    root, _ = city
    with pytest.raises(MinicityError, match="another city.*--overwrite"):
        make_minicity(root, 6, 2, (256, 128), seed=4, workers=1, progress=False)
    with pytest.raises(MinicityError, match="6 train images, asked for 3"):
        make_minicity(root, 3, 2, (256, 128), seed=3, workers=1, progress=False)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MinicityError, match="cannot write to .*file"):
        make_minicity(tmp_path / "file" / "city", 1, 0, progress=False)


def test_coco_files_share_boxes_between_clear_and_foggy(city):
    root, summary = city
    clear, foggy = (
        json.loads((root / "annotations" / f"instances_{name}train.json").read_text()) for name in ("", "foggy_0.02_")
    )
    assert clear["annotations"] == foggy["annotations"]
    assert sum(summary["train"]["boxes"].values()) == len(clear["annotations"]) > 0
    assert all((root / "leftImg8bit_foggy" / x["file_name"]).is_file() for x in foggy["images"])


def test_the_ground_is_labelled_where_it_is():
    """Below the skyline there is no sky, and a row of the road is as wide as its kerbs stand apart."""
    for seed in range(8):
        scene = render_scene(seed)
        horizon = int(scene.camera.v0) + 10  # above it, gaps between far houses show the sky
        assert not (scene.label_ids[horizon:] == LABELS["sky"][0]).any()
        rows = [(scene.label_ids[row] == LABELS["road"][0]).sum() for row in (horizon + 10, -1)]
        assert rows[0] < rows[1] <= 512
