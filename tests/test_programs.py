"""Names that steer a terminal, and locales that are not UTF-8."""

import ast
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.data import tiny_config, write_coco, write_config, write_image
from helpers.faults import check_refused, run_program
from mic_det.engine.setup import load_config
from mic_det.errors import CheckpointError, ConfigError, DataError
from mic_det.utils.printable import printable
from mic_det.utils.programs import PRINTABLE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
CLEAR, TURNED = "\x1b[2J\x1b[31m", "\u202egnp.exe"  # clears the screen in red; runs from right to left


@pytest.mark.parametrize(
    "text, shown",
    [
        ("Straße/图像 ok.png", "Straße/图像 ok.png"),
        (CLEAR, r"\x1b[2J\x1b[31m"),
        ("a\nb\rc\td\0", r"a\nb\rc\td\x00"),
        ("\x9b31m\x7f\x85", r"\x9b31m\x7f\x85"),  # one-byte forms of the same
        (TURNED, r"\u202egnp.exe"),
        ("\u2028\u2029\u200b\ufeff", r"\u2028\u2029\u200b\ufeff"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png"),
        ("می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),  # joiners belong to the spelling
        (Path("a\x1b"), r"a\x1b"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_an_escape(text, shown):
    assert printable(text) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize("kind", [ConfigError, DataError, CheckpointError])
def test_errors_are_printable(kind):
    assert str(kind(f"{CLEAR} is wrong")) == r"\x1b[2J\x1b[31m is wrong"


def test_log_records_are_printable_but_keep_detectron2s_lines_and_colours():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(PRINTABLE)
    logger = logging.getLogger("test_printable")
    logger.addHandler(handler)
    logger.propagate = False
    logger.warning("%s and %r, %d of %.1f: %s", f"a\n{CLEAR}", "b\n", np.int64(3), np.float32(0.5), OSError(CLEAR))
    logger.warning("\x1b[36m| table |\n| \x1b[0m 1 |\t" + TURNED + "\x1b[2J")
    logger.warning("%(name)s", {"name": CLEAR})
    assert stream.getvalue().splitlines() == [
        r"a\n\x1b[2J\x1b[31m and 'b\n', 3 of 0.5: \x1b[2J\x1b[31m",
        "\x1b[36m| table |",
        "| \x1b[0m 1 |\t" + r"\u202egnp.exe\x1b[2J",
        r"\x1b[2J\x1b[31m",
    ]


def test_class_names_with_control_characters_are_refused(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    write_image(tmp_path / "images/a.png", image)
    category = [{"id": 1, "name": f"car{CLEAR}"}]
    box = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0}]
    write_coco(tmp_path / "a.json", [("a.png", 64, 48)], [], changes={"annotations": box, "categories": category})
    sets = {"mine": {"JSON": str(tmp_path / "a.json"), "IMAGES": str(tmp_path / "images")}}
    keys = {"DATASETS__CUSTOM": sets, "DATASETS__TRAIN": ["mine"], "DATASETS__TEST": []}
    config = write_config(tmp_path / "c.yaml", tiny_config(tmp_path, tmp_path / "out", **keys))
    for program in ("tools/train_net.py", "datasets/check.py"):
        line = check_refused(program, ["--config-file", config], ["a.json", "'name'", "without control characters"])
        assert "\x1b" not in line


def test_names_of_sets_and_pixel_classes_with_control_characters_are_refused():
    for entry in ({f"a{CLEAR}": {"IMAGES": "x"}}, {"a": {"IMAGES": "x", "SEM_SEG": "y", "SEM_SEG_CLASSES": [CLEAR]}}):
        with pytest.raises(ConfigError, match="control characters"):
            load_config("", ["DATASETS.CUSTOM", entry])


def test_a_file_whose_name_clears_the_screen_is_named_harmlessly(tmp_path):
    """In a folder of images: by the check, by training (an error) and by prediction (skipped)."""
    name = f"{CLEAR}{TURNED}.png"
    for i in range(3):
        write_image(tmp_path / f"images/{i}.png", np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "images" / name).write_bytes(b"nothing")
    sets = {"mine": {"IMAGES": str(tmp_path / "images")}}
    keys = {"DATASETS__CUSTOM": sets, "DATASETS__TRAIN": ["mine"], "DATASETS__TEST": []}
    config = write_config(tmp_path / "c.yaml", tiny_config(tmp_path, tmp_path / "out", **keys))
    code, text = run_program("datasets/check.py", "--config-file", config, "--workers", 1)
    assert code == 1 and printable(name) in text
    assert "\x1b[2J" not in text and "\u202e" not in text and "\x1b[31m" not in text


# ------------------------------------------------------------------------------------------ encodings


def test_every_text_file_is_opened_with_an_encoding():
    """``open`` in text mode, ``read_text`` and ``write_text`` of pathlib: the locale's encoding is never meant."""
    wrong = []
    for file in [f for d in ("mic_det", "tools", "datasets") for f in (ROOT / d).rglob("*.py")]:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and needs_encoding(call) and "encoding" not in [k.arg for k in call.keywords]:
                wrong.append(f"{file.relative_to(ROOT)}:{call.lineno}")
    assert not wrong


def needs_encoding(call):
    if isinstance(call.func, ast.Name):
        mode = call.args[1].value if len(call.args) > 1 and isinstance(call.args[1], ast.Constant) else "r"
        return call.func.id == "open" and "b" not in mode
    # of pathlib; Outputs.write_text, which is UTF-8 by itself, takes two values
    few = {"read_text": 1, "write_text": 2}
    return isinstance(call.func, ast.Attribute) and len(call.args) < few.get(call.func.attr, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="locales of POSIX")
def test_names_are_read_and_written_as_utf_8_in_a_locale_of_another_encoding(tmp_path):
    """Detectron2 and pycocotools open their files without an encoding: the class's name must survive both."""
    image = np.zeros((48, 64, 3), np.uint8)
    write_image(tmp_path / "images/größe.png", image)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "größe.png", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "Fußgänger"}],
        "annotations": [box],
    }
    (tmp_path / "a.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    sets = {"mine": {"JSON": str(tmp_path / "a.json"), "IMAGES": str(tmp_path / "images")}}
    keys = {"DATASETS__CUSTOM": sets, "DATASETS__TRAIN": ["mine"], "DATASETS__TEST": []}
    config = tiny_config(tmp_path, tmp_path / "out", **keys)
    config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] = 1
    write_config(tmp_path / "c.yaml", config)
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = "import locale; print(locale.getpreferredencoding(False))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **locale}, capture_output=True, text=True)
    assert done.stdout.strip().lower() not in ("utf-8", "utf8"), "or this test proves nothing"
    command = [sys.executable, "-W", "ignore", ROOT / "datasets/check.py", "--config-file", tmp_path / "c.yaml"]
    done = subprocess.run(
        [*map(str, command), "--workers", "1"], env={**os.environ, **locale}, capture_output=True, timeout=1800
    )
    text = done.stdout.decode("utf-8")
    assert done.returncode == 0, text + done.stderr.decode("utf-8", "replace")[-3000:]
    assert "Fußgänger 1" in text and "no problems" in text
