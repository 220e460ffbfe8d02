"""Fog from files: disparity decoded by hand, holes filled along edges, names as the official ones."""

import json
import math

import cv2
import numpy as np
import pytest

from helpers.cityscapes import SIZE, write_cityscapes, write_depth
from helpers.data import refusal_here, run_tool_here, write_image
from mic_det.data.datasets.foggy import make_foggy_cityscapes, make_foggy_folder
from mic_det.data.fog import add_fog, disparity_to_depth, fill_invalid
from mic_det.errors import FogError

pytestmark = pytest.mark.slow

AIRLIGHT = (200.0, 210.0, 220.0)


def read(file):
    return cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def one_file(root, beta, number="000000"):
    return root / f"leftImg8bit_foggy/val/zürich/zürich_{number}_000019_leftImg8bit_foggy_beta_{beta}.png"


def clear_file(root, number="000000"):
    return root / f"leftImg8bit/val/zürich/zürich_{number}_000019_leftImg8bit.png"


def test_disparity_by_hand():
    # 16 bit: (513 - 1) / 256 = 2 pixels; depth = 0.2 * 50 / 2 = 5 m; 0 = invalid, 1 = no disparity
    depth = disparity_to_depth(np.array([[513, 0, 1, 65535]], np.uint16), 0.2, 50.0)
    assert depth[0, 0] == 5.0 and np.isnan(depth[0, 1]) and np.isinf(depth[0, 2])
    assert depth[0, 3] == pytest.approx(10 * 256 / 65534)


def test_a_flat_depth_gives_the_formula(tmp_path):
    root = write_cityscapes(tmp_path, splits=("val",))
    write_depth(root, np.full(SIZE, 1 + 256, np.uint16))  # 1 pixel: 10 m along the axis
    assert make_foggy_cityscapes(root, ["val"], ["0.02"], AIRLIGHT, workers=1, progress=False) == (4, 0)
    clear, foggy = read(clear_file(root)).astype(float), read(one_file(root, "0.02"))
    for y, x in ((20, 30), (0, 0), (39, 59)):
        distance = 10 * math.sqrt(1 + ((x - 30) / 50) ** 2 + ((y - 20) / 50) ** 2)
        t = math.exp(-0.02 * distance)
        expected = clear[y, x] * t + np.array(AIRLIGHT) * (1 - t)
        np.testing.assert_allclose(foggy[y, x], expected, atol=0.51)


def test_beta_0_is_the_identity_and_more_fog_is_nearer_to_the_airlight(tmp_path):
    root = write_cityscapes(tmp_path, splits=("val",))
    write_depth(root, np.full(SIZE, 100, np.uint16))
    betas = ["0", "0.005", "0.01", "0.02"]
    assert make_foggy_cityscapes(root, ["val"], betas, AIRLIGHT, workers=2, progress=False) == (16, 0)
    assert (read(one_file(root, "0")) == read(clear_file(root))).all()
    apart = [np.abs(read(one_file(root, b)) - np.array(AIRLIGHT)) for b in betas]
    assert all((far <= near + 1).all() and far.mean() < near.mean() for near, far in zip(apart, apart[1:]))


def test_it_continues_where_it_stopped(tmp_path):
    root = write_cityscapes(tmp_path, splits=("val",))
    write_depth(root, np.full(SIZE, 300, np.uint16))
    make_foggy_cityscapes(root, ["val"], ["0.02"], AIRLIGHT, workers=1, progress=False)
    kept, gone = one_file(root, "0.02"), one_file(root, "0.02", "000001")
    before = gone.read_bytes()
    gone.unlink()
    kept.write_bytes(b"as it was")
    assert make_foggy_cityscapes(root, ["val"], ["0.02"], AIRLIGHT, workers=1, progress=False) == (1, 3)
    assert gone.read_bytes() == before and kept.read_bytes() == b"as it was"
    make_foggy_cityscapes(root, ["val"], ["0.02"], AIRLIGHT, workers=1, progress=False, overwrite=True)
    assert kept.read_bytes() != b"as it was"
    assert not list(root.rglob("*.tmp"))


def test_holes_are_filled_from_what_looks_alike():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 200  # left dark, right bright, with the disparities 10 and 40
    values = np.where(np.arange(60) < 30, 10.0, 40.0)[None].repeat(40, axis=0)
    valid = np.ones((40, 60), bool)
    valid[10:30, 20:45] = False
    filled = fill_invalid(np.where(valid, values, 0), valid, image)
    inner = np.abs(np.arange(60) - 29.5) > 3  # the edge itself is blurred in the guide
    np.testing.assert_allclose(filled[:, inner], values[:, inner], atol=0.2)
    assert (filled[valid] == values[valid]).all()


def test_holes_that_look_like_nothing_take_the_nearest_value():
    image = np.zeros((30, 30, 3), np.uint8)
    image[5:25, 5:25] = 255
    valid = np.ones((30, 30), bool)
    valid[5:25, 5:25] = False
    values = np.where(np.arange(30) < 15, 1.0, 2.0)[None].repeat(30, axis=0)
    filled = fill_invalid(values, valid, image)
    assert filled[15, 8] == 1.0 and filled[15, 22] == 2.0 and np.isfinite(filled).all()
    assert np.isnan(fill_invalid(values, np.zeros_like(valid), image)).all()


def test_holes_do_not_show_in_the_fog(tmp_path):
    root = write_cityscapes(tmp_path, splits=("val",))
    disparity = np.full(SIZE, 513, np.uint16)
    write_depth(root, disparity)
    make_foggy_cityscapes(root, ["val"], ["0.02"], AIRLIGHT, workers=1, progress=False)
    whole = read(one_file(root, "0.02"))
    disparity[np.random.default_rng(0).random(SIZE) < 0.3] = 0
    write_depth(root, disparity)
    make_foggy_cityscapes(root, ["val"], ["0.02"], AIRLIGHT, workers=1, progress=False, overwrite=True)
    assert np.abs(read(one_file(root, "0.02")).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("kind", ["npy", "png"])
def test_plain_folders(tmp_path, kind):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    depth = np.linspace(1000, 60000, 600).reshape(20, 30).astype(np.uint16)
    write_image(tmp_path / "images/sub/straße.png", image)
    (tmp_path / "depth/sub").mkdir(parents=True)
    if kind == "npy":
        np.save(tmp_path / "depth/sub/straße.npy", depth)
    else:
        (tmp_path / "depth/sub/straße.png").write_bytes(cv2.imencode(".png", depth)[1].tobytes())
    folders = tmp_path / "images", tmp_path / "depth", tmp_path / "foggy"
    assert make_foggy_folder(*folders, ["0.01"], AIRLIGHT, 0.001, workers=1, progress=False) == (1, 0)
    foggy = read(tmp_path / "foggy/sub/straße_foggy_beta_0.01.png")
    np.testing.assert_array_equal(foggy, add_fog(image, depth / 1000.0, 0.01, AIRLIGHT))


def broken_tree(tmp_path, change):
    root = write_cityscapes(tmp_path, splits=("val",))
    write_depth(root, np.full(SIZE, 300, np.uint16))
    change(root)
    return root


def camera_of(root):
    return root / "camera/val/zürich/zürich_000000_000019_camera.json"


def disparity_of(root):
    return root / "disparity/val/zürich/zürich_000000_000019_disparity.png"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: camera_of(r).unlink(), "000000_000019_camera.json is missing.*camera package"),
        (lambda r: disparity_of(r).unlink(), "disparity.png is missing.*disparity package"),
        (lambda r: camera_of(r).write_text(json.dumps({"extrinsic": {}})), "camera.json is not a readable.*baseline"),
        (lambda r: disparity_of(r).write_bytes(disparity_of(r).read_bytes()[:30]), "disparity.png cannot be read"),
        (lambda r: clear_file(r).write_bytes(b""), "leftImg8bit.png cannot be read"),
        (lambda r: write_depth(r, np.zeros(SIZE, np.uint16)), "disparity.png has no valid pixel"),
        (lambda r: write_depth(r, np.zeros(SIZE, np.uint8)), "disparity.png is uint8.*16 bit"),
        (lambda r: write_depth(r, np.zeros((4, 4), np.uint16)), "shape .4, 4.*size .40, 60"),
        (lambda r: (r / "leftImg8bit_foggy").write_text("a file in the way"), "cannot write .*beta_0.02.png"),
    ],
)
def test_what_is_missing_or_broken_is_named(tmp_path, change, message):
    with pytest.raises(FogError, match=message):
        make_foggy_cityscapes(broken_tree(tmp_path, change), ["val"], ["0.02"], workers=1, progress=False)


def test_the_program_and_its_refusals(tmp_path, monkeypatch, capsys):
    root = write_cityscapes(tmp_path, splits=("val",))
    write_depth(root, np.full(SIZE, 300, np.uint16))
    tool = "../datasets/make_fog.py"
    options = ["--split", "val", "--beta", "0.010", "--workers", 1]
    run_tool_here(tool, "--cityscapes", root, *options, monkeypatch=monkeypatch)
    assert "4 foggy images written, 0 existed before" in capsys.readouterr().out and one_file(root, "0.010").is_file()
    assert "train: check" in refusal_here(tool, "--cityscapes", root, monkeypatch=monkeypatch)
    for wrong in (["--beta", "thick"], ["--images", root], ["--airlight", 1, 2, 300], ["--workers", 0]):
        with pytest.raises(SystemExit) as caught:
            run_tool_here(tool, *wrong, monkeypatch=monkeypatch)
        assert caught.value.code == 2
