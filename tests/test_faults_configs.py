"""Damaged configs: one line names the file and its line, or the key."""

import os

import pytest

from helpers.faults import Scene, check_told, prepare, write_scene
from mic_det.engine.setup import load_config

MIC = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"]}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = tmp_path_factory.mktemp("configs")
    write_scene(root)
    return Scene(root)


CANARY = "was_run"
TEXTS = {
    "unknown key": ("MODEL:\n  ROI_HEADS:\n    NUM_CLASES: 3\n", ["line 4", "MODEL.ROI_HEADS.NUM_CLASSES"]),
    "unknown section": ("MODLE: {DEVICE: cpu}\n", ["line 2", "MODLE"]),
    "text for a number": ("SOLVER: {MAX_ITER: many}\n", ["line 2", "SOLVER.MAX_ITER", "int"]),
    "a number for a list": ("DATASETS: {TRAIN: 3}\n", ["line 2", "DATASETS.TRAIN"]),
    "a value for a section": ("MODEL: 3\n", ["line 2", "MODEL", "mapping"]),
    "a section for a value": ("SEED: {a: 3}\n", ["line 2", "SEED"]),
    "null": ("SOLVER: {MAX_ITER: null}\n", ["SOLVER.MAX_ITER is null"]),
    "NaN": ("SOLVER: {BASE_LR: .nan}\n", ["SOLVER.BASE_LR is nan"]),
    "an unclosed bracket": ("DATASETS: {TRAIN: [a\n", ["line 3", "YAML"]),
    "a tab": ("MODEL:\n\tDEVICE: cpu\n", ["line 3", "YAML"]),
    "a key twice": ("SEED: 1\nSEED: 2\n", ["line 3", "SEED is set twice"]),
    "a list": (None, ["not a mapping"]),
    "an alias of itself": ("MODEL: &m {RPN: *m}\n", ["line 2"]),
    "another version": ("VERSION: 9\n", ["v9"]),
    "a base that is missing": ("_BASE_: gone.yaml\n", ["gone.yaml", "_BASE_ of"]),
    "a base that is itself": ("_BASE_: wrong.yaml\n", ["circle"]),
    "a base that is a number": ("_BASE_: {a: 1}\n", ["line 2", "_BASE_"]),
    "a base that is a folder": ("_BASE_: source\n", ["source", "directory"]),
    "a tag with code": (f"SEED: !!python/object/apply:os.mkdir [{CANARY}]\n", ["line 2", "os.mkdir", "code"]),
    "a tag of a type": ("DATASETS: {TRAIN: !!python/tuple [a]}\n", ["line 2", "python/tuple"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_config_that_cannot_be_read_is_named_with_its_line(scene, monkeypatch, name):
    monkeypatch.chdir(scene.root)
    text, parts = TEXTS[name]
    version = "" if "VERSION" in (text or "") else "VERSION: 2\n"
    (scene.root / "wrong.yaml").write_text("- 3\n" if text is None else version + text)
    file = [] if name in ("null", "NaN") else ["wrong.yaml"]  # wrong in what the file makes of the defaults
    check_told([*file, *parts], load_config, scene.root / "wrong.yaml")
    assert not os.path.exists(CANARY), "the config's code was run"


def test_code_in_a_base_is_refused_too(scene, monkeypatch):
    """By Detectron2's own loader it is run: it falls back to ``yaml.unsafe_load``."""
    from detectron2.config import get_cfg

    monkeypatch.chdir(scene.root)
    (scene.root / "evil.yaml").write_text(f"SEED: !!python/object/apply:os.mkdir [{CANARY}]\n")
    (scene.root / "top.yaml").write_text("VERSION: 2\n_BASE_: [evil.yaml]\n")
    check_told(["evil.yaml, line 1", "os.mkdir"], load_config, scene.root / "top.yaml")
    assert not os.path.exists(CANARY)
    get_cfg().merge_from_file(str(scene.root / "top.yaml"))
    assert os.path.exists(CANARY), "the tag works: code that is run would be noticed"
    os.rmdir(CANARY)


def test_a_circle_of_bases_shows_its_way(scene):
    for name, base in (("one", "two"), ("two", "three"), ("three", "one")):
        (scene.root / f"{name}.yaml").write_text(f"_BASE_: {base}.yaml\n")
    check_told(["one.yaml", "two.yaml", "three.yaml", "circle"], load_config, scene.root / "one.yaml")


def test_a_wrong_key_is_found_in_the_base_that_has_it(scene):
    (scene.root / "base.yaml").write_text("VERSION: 2\nSOLVER:\n  MAX_ITR: 3\n")
    (scene.root / "above.yaml").write_text("_BASE_: base.yaml\n")
    check_told(["base.yaml, line 3", "SOLVER.MAX_ITER"], load_config, scene.root / "above.yaml")


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"\xff\xfe\x00V", b"[" * 5000])
def test_a_file_that_is_no_text_is_named(scene, content):
    (scene.root / "odd.yaml").write_bytes(content)
    check_told(["odd.yaml"], load_config, scene.root / "odd.yaml")


KEYS = {
    "ratio 1": (MIC, ["MODEL.MIC.MASK.RATIO", "1.0"], ["MODEL.MIC.MASK.RATIO", "[0, 1)"]),
    "a weight that is no number": (MIC, ["MODEL.MIC.CONSISTENCY.WEIGHT", "nan"], ["MODEL.MIC.CONSISTENCY.WEIGHT"]),
    "no batch": ({}, ["SOLVER.IMS_PER_BATCH", "0"], ["SOLVER.IMS_PER_BATCH", "at least 1"]),
    "a negative rate": ({}, ["SOLVER.BASE_LR", "-0.1"], ["SOLVER.BASE_LR"]),
    "no steps": ({}, ["SOLVER.MAX_ITER", "0"], ["SOLVER.MAX_ITER"]),
    "no classes": ({}, ["MODEL.ROI_HEADS.NUM_CLASSES", "0"], ["MODEL.ROI_HEADS.NUM_CLASSES"]),
    "unknown device": ({}, ["MODEL.DEVICE", "gpu"], ["MODEL.DEVICE", "cuda"]),
    "unknown model": ({}, ["MODEL.META_ARCHITECTURE", "FasterRCNN"], ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"]),
    "unknown student": (MIC, ["MODEL.MIC.STUDENT", "FasterRCNN"], ["MODEL.MIC.STUDENT", "GeneralizedRCNN"]),
    "unknown backbone": ({}, ["MODEL.BACKBONE.NAME", "resnet50"], ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"]),
    "unknown depth": ({}, ["MODEL.RESNETS.DEPTH", "20"], ["MODEL.RESNETS.DEPTH", "18"]),
    "unknown features": ({}, ["MODEL.ROI_HEADS.IN_FEATURES", "['p9']"], ["p9", "MODEL"]),
    "two anchors for five levels": ({}, ["MODEL.ANCHOR_GENERATOR.SIZES", "[[8],[16]]"], ["MODEL"]),
    "a narrow R18": ({}, ["MODEL.RESNETS.RES2_OUT_CHANNELS", "128"], ["MODEL.RESNETS.RES2_OUT_CHANNELS"]),
    "two means": ({}, ["MODEL.PIXEL_MEAN", "[1.0, 2.0]"], ["MODEL.PIXEL_MEAN", "three numbers"]),
    "deviation 0": ({}, ["MODEL.PIXEL_STD", "[1.0, 2.0, 0.0]"], ["MODEL.PIXEL_STD", "above 0"]),
    "unknown format": ({}, ["INPUT.FORMAT", "RBG"], ["INPUT.FORMAT", "BGR"]),
    "a pair without its value": ({}, ["SEED"], ["odd length"]),
    "unknown key": ({}, ["MODEL.MIC.MASK.RATOI", "0.5"], ["MODEL.MIC.MASK.RATIO"]),
    "no source": ({"DATASETS__TRAIN": []}, [], ["DATASETS.TRAIN"]),
    "no target": ({**MIC, "DATASETS__TARGET": []}, [], ["DATASETS.TARGET"]),
    "a target without MIC": ({"DATASETS__TARGET": ["target_train"]}, [], ["DATASETS.TARGET", "MIC"]),
    "an unregistered set": ({"DATASETS__TRAIN": ["sourc_train"]}, [], ["DATASETS.TRAIN", "sourc_train"]),
    "an unregistered test set": ({"DATASETS__TEST": ["coco_fog"]}, [], ["DATASETS.TEST", "coco_fog"]),
    "a declared set without images": ({"DATASETS__CUSTOM__x": {"JSON": "a"}}, [], ["DATASETS.CUSTOM.x", "IMAGES"]),
    "a declared set with a wrong key": (
        {"DATASETS__CUSTOM__x": {"IMAGES": "a", "JSN": "b"}}, [], ["DATASETS.CUSTOM.x", "JSN"]
    ),
    "a declared set of a known name": (
        {"DATASETS__CUSTOM__coco_2017_val": {"IMAGES": "a"}}, [], ["DATASETS.CUSTOM.coco_2017_val"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_settings_that_cannot_work_are_named(scene, name):
    keys, opts, parts = KEYS[name]
    check_told(parts, prepare, scene.config(**keys), opts)
