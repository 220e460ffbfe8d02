"""A tiny two-domain data set and a small detector's config, written to a temporary folder by tests."""

import contextlib
import json
import logging
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger

from mic_det.engine.setup import load_config

CLASSES = ("red", "green", "blue")
COLORS = ((255, 30, 30), (30, 255, 30), (30, 30, 255))  # RGB, one a class
WIDTH, HEIGHT = 96, 64
SPLITS = {"train": 8, "val": 4}
# On images this small, threads only wait for each other: on shared cores, one is twice as fast
torch.set_num_threads(1)
TOOLS = Path(__file__).resolve().parents[2] / "tools"
LOGGERS = ("", "detectron2", "d2", "fvcore", "mic_det")


def write_coco(path, images, boxes, classes=CLASSES, changes=()):
    """Write a COCO file and return its content.

    Args:
        images (list): (file name, width, height) each.
        boxes (list): (index of image, index of class, (x, y, width, height)) each.
        changes (dict): top-level entries to replace, or to leave out where None.
    """
    content = {
        "images": [{"id": i + 1, "file_name": n, "width": w, "height": h} for i, (n, w, h) in enumerate(images)],
        "annotations": [
            {"id": k + 1, "image_id": i + 1, "category_id": c + 1, "bbox": list(b), "area": b[2] * b[3], "iscrowd": 0}
            for k, (i, c, b) in enumerate(boxes)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
    }
    content = {k: v for k, v in {**content, **dict(changes)}.items() if v is not None}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return content


def write_image(path, rgb):
    """``cv2.imwrite`` that creates the folder and takes any file name, non-ASCII ones too."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(rgb[:, :, ::-1]))[1].tobytes())


def write_two_domains(root, seed=0):
    """Coloured rectangles on noise: ``source`` is dark, ``target`` is the same kind of scene in haze.

    Writes ``{source,target}/{train,val}.json`` and ``{source,target}/images`` below ``root``.

    Returns:
        dict[str, dict]: the COCO content of ``source_train``, ``source_val``, ``target_train``, ``target_val``.
    """
    rng = np.random.default_rng(seed)
    content = {}
    for domain in ("source", "target"):
        folder = Path(root) / domain / "images"
        for split, count in SPLITS.items():
            images, annotations = [], []
            for i in range(count):
                picture, boxes = _scene(rng)
                if domain == "target":
                    picture = picture * 0.6 + 90
                images.append((f"{split}_{i}.png", WIDTH, HEIGHT))
                annotations += [(i, c, b) for c, b in boxes]
                write_image(folder / f"{split}_{i}.png", picture.astype(np.uint8))
            name = f"{domain}_{split}"
            content[name] = write_coco(Path(root) / domain / f"{split}.json", images, annotations)
    return content


def _scene(rng):
    picture = rng.integers(0, 60, (HEIGHT, WIDTH, 3)).astype(np.float64)
    boxes = []
    for column in range(2):  # one rectangle in each half, so that none hides another
        c = int(rng.integers(len(CLASSES)))
        w, h = (int(v) for v in rng.integers(20, 36, 2))
        x, y = column * WIDTH // 2 + int(rng.integers(2, 10)), int(rng.integers(2, HEIGHT - h - 2))
        picture[y : y + h, x : x + w] = COLORS[c]
        boxes.append((c, (x, y, w, h)))
    return picture, boxes


def declared(root):
    """``DATASETS.CUSTOM`` of what :func:`write_two_domains` wrote."""
    root = Path(root)
    return {
        f"{domain}_{split}": {"JSON": str(root / domain / f"{split}.json"), "IMAGES": str(root / domain / "images")}
        for domain in ("source", "target")
        for split in SPLITS
    }


def tiny_config(root, output="output", **changes):
    """A nested dict of config keys for a small detector on the data below ``root``; ``A__B=x`` sets key A.B."""
    config = {
        "VERSION": 2,
        "MODEL": {
            "DEVICE": "cpu",
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
            # GroupNorm learns from scratch on few images a step
            "RESNETS": {
                "DEPTH": 18, "RES2_OUT_CHANNELS": 64, "NORM": "GN", "STRIDE_IN_1X1": False,
                "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
            },
            "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 32, "NORM": "GN"},
            "PIXEL_MEAN": [60.0, 60.0, 60.0],
            "PIXEL_STD": [60.0, 60.0, 60.0],
            "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
            "RPN": {
                "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "BATCH_SIZE_PER_IMAGE": 64,
                "PRE_NMS_TOPK_TRAIN": 100, "PRE_NMS_TOPK_TEST": 100,
                "POST_NMS_TOPK_TRAIN": 50, "POST_NMS_TOPK_TEST": 50,
            },
            "ROI_HEADS": {
                "NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": len(CLASSES),
                "BATCH_SIZE_PER_IMAGE": 32,
            },
            "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 64, "POOLER_RESOLUTION": 5},
            "MIC": {"MASK": {"BLOCK_SIZE": 16}},
        },
        "INPUT": {
            "FORMAT": "RGB", "MIN_SIZE_TRAIN": [HEIGHT], "MAX_SIZE_TRAIN": WIDTH, "MIN_SIZE_TEST": HEIGHT,
            "MAX_SIZE_TEST": WIDTH,
        },
        "DATASETS": {"CUSTOM": declared(root), "TRAIN": ["source_train"], "TEST": ["target_val"]},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SOLVER": {"IMS_PER_BATCH": 2, "IMS_PER_BATCH_TARGET": 2, "BASE_LR": 0.02, "MAX_ITER": 20, "WARMUP_ITERS": 5},
        "SEED": 1,
        "OUTPUT_DIR": str(output),
    }  # fmt: skip
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return config


def write_config(path, config):
    """Write a config dict as YAML and return the path as text."""
    Path(path).write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return str(path)


def disturb(model, seed):
    """Random weights, other than those that building a model draws."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn(p.shape, generator=generator)
    return model


def load(folder, config):
    """A config dict through the same door as every tool: written as YAML below ``folder``, read and checked."""
    return load_config(write_config(Path(folder) / "config.yaml", config))


@contextlib.contextmanager
def forget_registered_sets():
    """The catalogs are global: what a test registers, or says of a registered set, must not reach the next one."""
    before = {name: dict(MetadataCatalog.get(name).__dict__) for name in DatasetCatalog.list()}
    try:
        yield
    finally:
        for name in DatasetCatalog.list():
            if name not in before:
                DatasetCatalog.remove(name)
                MetadataCatalog.pop(name, None)
        for name, metadata in before.items():
            now = MetadataCatalog.get(name).__dict__
            now.clear()
            now.update(metadata)


@contextlib.contextmanager
def keep_loggers():
    """Programs give loggers handlers, which write to a log or a stream that is closed when the next test runs."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(x.handlers), x.level, x.propagate) for x in loggers]
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before):
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
        setup_logger.cache_clear()  # it remembers whom it gave handlers


def write_two_images(folder):
    """A set that can be counted by hand: two images of 60 x 40, four boxes of which one is a crowd.

    The classes' ids are 7 (car) and 3 (bus), in this order. Writes ``set.json`` and ``images``.
    """
    for name in ("a.png", "sub/b.png"):
        write_image(Path(folder) / "images" / name, np.full((40, 60, 3), 128, np.uint8))
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [5, 5, 8, 8], "area": 64, "iscrowd": 0},
        {"id": 3, "image_id": 2, "category_id": 7, "bbox": [5, 5, 9, 9], "area": 81, "iscrowd": 1},
        {"id": 4, "image_id": 2, "category_id": 7, "bbox": [15, 5, 9, 9], "area": 81, "iscrowd": 0},
    ]
    categories = [{"id": 7, "name": "car"}, {"id": 3, "name": "bus"}]
    changes = {"annotations": annotations, "categories": categories}
    write_coco(Path(folder) / "set.json", [("a.png", 60, 40), ("sub/b.png", 60, 40)], [], changes=changes)


def load_with_sets(folder, declared, **keys):
    """A config of two classes that declares sets; ``declared`` maps names to (JSON or "", IMAGES)."""
    entries = {n: {"IMAGES": str(i), **({"JSON": str(j)} if j else {})} for n, (j, i) in declared.items()}
    kind = "MIC" if keys.get("DATASETS__TARGET") else "GeneralizedRCNN"
    keys = {
        "MODEL__META_ARCHITECTURE": kind,
        "MODEL__ROI_HEADS__NUM_CLASSES": 2,
        "DATASETS__TRAIN": ["t_train"],
        "DATASETS__TEST": [],
        **keys,
    }
    return load(folder, tiny_config(folder, DATASETS__CUSTOM=entries, **keys))


def start_tool(name, *args, cwd):
    """Start ``tools/NAME`` as a user would, from another folder than the repository's."""
    command = [sys.executable, str(TOOLS / name), *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # tiny images: more threads only get in each other's way
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=env, text=True, encoding="utf-8", **pipes)


def run_tool(name, *args, cwd):
    """Run a tool to its end, which must be a success without warnings; returns what it printed."""
    return finish(start_tool(name, *args, cwd=cwd))


def finish(process, timeout=1800):
    """Everything that a started tool printed, which must end with success and without warnings of others' code."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"{out[-3000:]}\n{err[-3000:]}"
    assert not foreign_warnings(err), err[-3000:]
    return out


def foreign_warnings(text):
    """Lines of standard error that are warnings of installed packages: Python's, and torch's own logging."""
    shown = re.compile(r"(^|\])W\d{4} |(?:Deprecation|Future|User|Runtime)Warning: |site-packages", re.MULTILINE)
    return [line for line in text.splitlines() if shown.search(line)]


def refusal(process):
    """The message of a tool that must have ended with exit code 1, one ``error:`` line and no traceback."""
    out, err = process.communicate(timeout=1800)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1, f"{out[-3000:]}\n{err[-3000:]}"
    assert len(errors) == 1 and err.strip().splitlines()[-1] == errors[0], err
    assert "Traceback" not in out + err, err
    return errors[0]


def run_tool_here(name, *args, monkeypatch):
    """Run a tool in this process: Python's start takes longer than many a call."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
    with forget_registered_sets(), keep_loggers():
        runpy.run_path(str(TOOLS / name), run_name="__main__")


def refusal_here(name, *args, monkeypatch):
    """As :func:`refusal`, in this process."""
    with pytest.raises(SystemExit) as caught:
        run_tool_here(name, *args, monkeypatch=monkeypatch)
    message = caught.value.code  # a text is printed, and makes the exit code 1
    assert isinstance(message, str) and message.startswith("error: ") and "\n" not in message
    return message
