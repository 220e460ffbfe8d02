"""Which files of a folder are images: linked folders followed once, hidden files left out."""

import os

import pytest

from helpers.data import declared
from helpers.faults import run_program
from mic_det.data.custom_sets import load_declared
from mic_det.data.datasets.cityscapes import annotated_images
from mic_det.data.datasets.foggy import make_foggy_folder
from mic_det.data.files import glob_files, list_images
from mic_det.errors import DataError
from mic_det.experiments.run_files import list_pictures
from mic_det.inference.media import find_sources


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def tree(tmp_path):
    """Six images: two in the folder itself, four behind links; and what must not be listed."""
    root, disk = tmp_path / "images", tmp_path / "disk"
    for name in ("a/1.png", "b.JPG"):
        put(root / name)
    for name in ("city/2.png", "city/deep/3.png", "loose.png"):
        put(disk / name)
    for name in ("a/._1.png", ".hidden.png", ".thumbnails/1.png", "a/notes.txt"):
        put(root / name)
    put(disk / "city/.DS_Store"), put(disk / "city/._2.png")
    (root / "city").symlink_to(disk / "city")
    (root / "loose.png").symlink_to(disk / "loose.png")
    (root / "gone.png").symlink_to(disk / "never.png")
    (root / "a/loop").symlink_to(root)  # the folder itself, one above it, one that is listed already, and a pair
    (root / "up").symlink_to(tmp_path)
    (root / "0_again").symlink_to(root / "a")
    (root / "city2").symlink_to(disk / "city/deep")
    (disk / "city/back").symlink_to(root / "a")
    return root


EXPECTED = ["a/1.png", "b.JPG", "city/2.png", "city/deep/3.png", "gone.png", "loose.png"]


def relative(files, root):
    return [os.path.relpath(f, root).replace(os.sep, "/") for f in files]


def test_each_image_is_listed_once(tree):
    assert relative(list_images(tree), tree) == EXPECTED
    assert list_images(tree) == sorted(list_images(str(tree)))


def test_all_that_list_images_list_the_same(tree, tmp_path):
    """Data sets of a folder, inputs of prediction and fog."""
    dicts = load_declared("some_set", "", str(tree))
    assert relative([d["file_name"] for d in dicts], tree) == EXPECTED
    assert relative([s.path for s in find_sources([str(tree)])], tree) == EXPECTED
    assert [s.name for s in find_sources([str(tree)])] == EXPECTED
    for name in ("gone.png", "a/1.png", "b.JPG", "city/2.png", "city/deep/3.png", "loose.png"):
        with pytest.raises(Exception, match="images need depth maps") as caught:
            make_foggy_folder(tree, tmp_path / "depth", tmp_path / "out", ["0.02"])
        assert ".hidden" not in str(caught.value) and "._" not in str(caught.value)
        put((tmp_path / "depth" / name).with_suffix(".npy"))


def test_a_folder_of_hidden_files_alone_has_no_images(tmp_path):
    put(tmp_path / "images/._a.png")
    with pytest.raises(DataError, match="no images"):
        load_declared("some_set", "", str(tmp_path / "images"))
    with pytest.raises(DataError, match="no images"):
        find_sources([str(tmp_path / "images")])


def test_a_hidden_folder_that_is_named_itself_is_listed(tmp_path):
    put(tmp_path / ".cache/a.png"), put(tmp_path / ".cache/x/b.png")
    assert relative(list_images(tmp_path / ".cache"), tmp_path / ".cache") == ["a.png", "x/b.png"]
    assert [s.name for s in find_sources([str(tmp_path / ".cache")])] == ["a.png", "x/b.png"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        list_images(tmp_path / "nowhere")


def test_a_fixed_layout_has_no_hidden_files_and_follows_links(tmp_path):
    put(tmp_path / "disk/x_a.png"), put(tmp_path / "disk/._x_a.png"), put(tmp_path / "root/.city/x_a.png")
    put(tmp_path / "root/y/x_a.png")
    (tmp_path / "root/city").symlink_to(tmp_path / "disk")
    assert relative(glob_files(tmp_path / "root", "*/*_a.png"), tmp_path / "root") == ["city/x_a.png", "y/x_a.png"]


def test_cityscapes_passes_over_hidden_files(tmp_path):
    for city in ("aa", ".ipynb_checkpoints"):
        put(tmp_path / f"gtFine/train/{city}/aa_0_0_gtFine_instanceIds.png")
    put(tmp_path / "gtFine/train/aa/._aa_0_0_gtFine_instanceIds.png")
    put(tmp_path / "leftImg8bit/train/aa/aa_0_0_leftImg8bit.png")
    put(tmp_path / "leftImg8bit/train/aa/._aa_0_0_leftImg8bit.png")
    (name,) = [name for _, name in annotated_images(tmp_path, "train")]
    assert name == "train/aa/aa_0_0_leftImg8bit.png"


def test_pictures_of_a_run_have_no_hidden_files(tmp_path):
    put(tmp_path / "10.png"), put(tmp_path / "._10.png"), put(tmp_path / "9.png")
    assert [p.name for p in list_pictures(tmp_path)] == ["9.png", "10.png"]


def test_the_check_counts_linked_images(scene):
    """The handed case: 6 of a folder's images lie behind a link, beside one of macOS's own files."""
    images = scene.root / "target/images"
    (scene.root / "disk").mkdir()
    for i in range(2, 8):
        (images / f"train_{i}.png").rename(scene.root / f"disk/train_{i}.png")
    (images / "linked").symlink_to(scene.root / "disk")
    put(images / "._train_0.png")
    sets = {**declared(scene.root), "tgt": {"IMAGES": str(images)}}
    keys = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__CUSTOM": sets, "DATASETS__TARGET": ["tgt"]}
    config = scene.config(DATASETS__TEST=[], **keys)
    code, text = run_program("datasets/check.py", "--config-file", config, "--workers", 1)
    assert code == 0 and any(line.split()[:2] == ["TARGET", "12"] for line in text.splitlines()), text
