"""Run the programs' real ``main`` in this process on damaged inputs, and look at how they end."""

import contextlib
import io
import logging
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from helpers_data import declared, forget_registered_sets, tiny_config, write_config, write_two_domains

ROOT = Path(__file__).resolve().parents[1]
LOGGERS = ("", "detectron2", "d2", "fvcore", "mic_det")


def run_program(program, *args):
    """Run ``tools/X.py`` or ``datasets/X.py`` as ``__main__``.

    Returns:
        (int, str): the exit code and everything that was printed, logged or given to ``sys.exit``.
    """
    text, before = io.StringIO(), sys.argv
    handlers = {name: list(logging.getLogger(name).handlers) for name in LOGGERS}
    sys.argv = [program, *map(str, args)]
    code = 0
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), forget_registered_sets():
            runpy.run_path(str(ROOT / program), run_name="__main__")
    except SystemExit as e:
        code = e.code
        if isinstance(code, str):  # Python prints it, and exits with 1
            text.write(code + "\n")
            code = 1
    finally:
        sys.argv = before
        for name, old in handlers.items():  # each run adds its own, which write to its log
            logging.getLogger(name).handlers[:] = old
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
    """A folder with two domains and small configs, which a case damages; see :func:`helpers_data.tiny_config`."""

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
