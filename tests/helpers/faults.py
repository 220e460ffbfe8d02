"""Damaged inputs, in this process: what a step of the way to a training says, and how the real programs end."""

import contextlib
import io
import logging
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data import (
    declared,
    forget_registered_sets,
    keep_loggers,
    load,
    tiny_config,
    write_config,
    write_two_domains,
)
from mic_det.data.audit import check_config_datasets
from mic_det.data.run_sets import check_datasets
from mic_det.engine.launch import advice
from mic_det.engine.setup import load_config
from mic_det.engine.trainer import MICTrainer

ROOT = Path(__file__).resolve().parents[2]


def check_told(parts, act, *args):
    """``act(*args)`` must raise an error that programs end with, in one line that has all of ``parts``; the line."""
    with pytest.raises(Exception) as caught:
        act(*args)
    line = advice(caught.value)
    if not line:
        raise caught.value
    assert line.isprintable() and all(str(p) in line for p in parts), f"{parts}\n{line}"
    return line


def prepare(config, opts=()):
    """A config file as train_net.py takes it, up to its model; returns config and model."""
    with forget_registered_sets():
        cfg = load_config(config, opts)
        check_datasets(cfg)
        return cfg, MICTrainer.build_model(cfg)


def read_first_images(config):
    """The images of a training's first step, as train_net.py reads them."""
    with forget_registered_sets():
        cfg = load_config(config)
        check_datasets(cfg)
        return next(iter(MICTrainer.build_train_loader(cfg)))


def problems(config):
    """What datasets/check.py says of a config, a line each."""
    with forget_registered_sets():
        reports, lines = check_config_datasets(load_config(config), workers=1, progress=False)
    lines = [*lines, *(p for r in reports for p in r.problems)]
    assert all(map(str.isprintable, lines))
    return lines


def check_problem(config, parts):
    """datasets/check.py must find a problem that has all of ``parts``."""
    lines = problems(config)
    assert any(all(str(p) in line for p in parts) for line in lines), f"{parts}\n{lines}"


def run_program(program, *args):
    """Run ``tools/X.py`` or ``datasets/X.py`` as ``__main__``.

    Returns:
        (int, str): the exit code and everything that was printed, logged or given to ``sys.exit``.
    """
    text, before = io.StringIO(), sys.argv
    sys.argv = [program, *map(str, args)]
    code = 0
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            with forget_registered_sets(), keep_loggers():
                logging.getLogger().handlers.clear()  # pytest's: warnings go to stderr where nobody has set up a log
                runpy.run_path(str(ROOT / program), run_name="__main__")
    except SystemExit as e:
        code = e.code
        if isinstance(code, str):  # Python prints it, and exits with 1
            text.write(code + "\n")
            code = 1
    finally:
        sys.argv = before
    return code or 0, text.getvalue()


def check_refused(program, args, parts):
    """The program must end with exit code 1 and one line, the last, that has all of ``parts``; no traceback."""
    code, text = run_program(program, *args)
    assert "Traceback" not in text, text[-3000:]
    assert code == 1, f"exit code {code}\n{text[-3000:]}"
    lines = text.strip().splitlines()
    shown = [line for line in lines if line.startswith(("error: ", "problem: "))]
    told = [line for line in shown if all(str(p) in line for p in parts)]
    assert told, f"{parts}\n{text[-3000:]}"
    if not program.startswith("datasets"):  # the check lists all problems
        assert shown == lines[-1:], text[-3000:]
    return told[0]


class Scene:
    """A folder with two domains and small configs, which a case damages; see :func:`helpers.data.tiny_config`."""

    def __init__(self, root):
        self.root = Path(root)

    def config(self, name="config.yaml", drop=(), **keys):
        content = tiny_config(self.root, self.root / "output", **keys)
        for key in drop:
            del content[key]
        return write_config(self.root / name, content)

    @property
    def image(self):
        """One of the source's training images."""
        return self.root / "source/images/train_0.png"

    @property
    def json(self):
        return self.root / "source/train.json"


def copy_scene(template, root):
    """The scene of ``template`` in another folder, so that a case can damage it."""
    shutil.copytree(template, root, dirs_exist_ok=True)
    return Scene(root)


def write_scene(root):
    """Two domains; every image has a label map of three classes in ``labels``."""
    write_two_domains(root)
    for split, count in (("train", 8), ("val", 4)):
        for domain in ("source", "target"):
            for i in range(count):
                labels = np.zeros((64, 96), np.uint8)
                labels[:, 48:] = 1
                file = Path(root) / domain / "labels" / f"{split}_{i}.png"
                file.parent.mkdir(exist_ok=True)
                Image.fromarray(labels).save(file)


def pixel_keys(root):
    """Keys that make :func:`tiny_config` a SemanticSegmentor on the label maps of :func:`write_scene`."""
    sets = declared(root)
    for name, entry in sets.items():
        entry["SEM_SEG"] = str(Path(root) / name.split("_")[0] / "labels")
        entry["SEM_SEG_CLASSES"] = ["left", "right", "none"]
    head = {"NAME": "SemSegFPNHead", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": 3, "CONVS_DIM": 32}
    return {"DATASETS__CUSTOM": sets, "MODEL__META_ARCHITECTURE": "SemanticSegmentor", "MODEL__SEM_SEG_HEAD": head}


# ------------------------------------------------------------------------------------ images


def picture(mode, size=(96, 64), suffix="PNG"):
    """An encoded image of a PIL mode, as bytes."""
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray((pixels[:, :, 0].astype(np.uint16)) * 200)
    elif mode == "F":
        image = Image.fromarray(pixels[:, :, 0].astype(np.float32))
    else:
        image = Image.fromarray(pixels).convert(mode)
    image.save(out, suffix)
    return out.getvalue()


# what becomes of an image file, and what the message says beside its name
DAMAGED = {
    "truncated": (lambda content: content[: len(content) // 2], "cannot"),
    "cut in its head": (lambda content: content[:20], "cannot"),
    "zero bytes": (lambda content: b"", "cannot"),
    "text": (lambda content: b"<html>404 Not Found</html>", "cannot"),
    "another size": (lambda content: picture("RGB", (50, 40)), "50 x 40"),
    "16 bits": (lambda content: picture("I;16"), "16"),
    "real numbers": (lambda content: picture("F", suffix="TIFF"), "8 bits"),
    "missing": (None, "missing"),
    "a folder": ("folder", ""),
}


def damage(file, change):
    content = file.read_bytes()
    if callable(change):
        file.write_bytes(change(content))
        return
    file.unlink()
    if change == "folder":
        file.mkdir()


# sound, but not as images mostly are
UNUSUAL = {
    "grey": lambda: picture("L"), "grey and alpha": lambda: picture("LA"), "alpha": lambda: picture("RGBA"),
    "palette": lambda: picture("P"), "black and white": lambda: picture("1"),
    "CMYK": lambda: picture("CMYK", suffix="JPEG"),
}  # fmt: skip


def save_new_detector(scene):
    """Write ``good.pth``, weights that fit the scene's config; returns them."""
    with forget_registered_sets():
        state = MICTrainer.build_model(load(scene.root, tiny_config(scene.root))).state_dict()
    torch.save(state, scene.root / "good.pth")
    return state
