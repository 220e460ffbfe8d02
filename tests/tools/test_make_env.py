"""tools/make_env.py: what it keeps, makes anew, and never removes. Its installing is replaced: that takes minutes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TOOL = Path(__file__).resolve().parents[2] / "tools/make_env.py"


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("make_env", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "working_pair", lambda python: {})  # imports torch, seconds each
    return tool


@pytest.fixture
def venv(tmp_path):
    """A virtual environment of the user's, with a pip that can be imported."""
    folder = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "pip.py").write_text("")
    (folder / "mine.txt").write_text("mine")
    return folder


def run(tool, venv, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make_env.py", "--venv", str(venv)])
    return tool.main()


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}


def break_python(venv):
    (venv / "bin/python").unlink()


def other_version(venv):
    (venv / "bin/python").unlink()
    (venv / "bin/python").write_text("#!/bin/sh\necho 2.7\n")
    (venv / "bin/python").chmod(0o755)


def no_venv(venv):
    (venv / "pyvenv.cfg").unlink()


@pytest.mark.parametrize(
    "change, stamp",
    [(break_python, None), (other_version, '{"made": false, "key": "x"}'),
     (no_venv, '{"key": "of an earlier version"}'),
     (other_version, "[]"), (break_python, "{")],
)  # fmt: skip
def test_an_environment_of_the_users_is_never_removed(tool, venv, change, stamp, monkeypatch, capsys):
    change(venv)
    if stamp:
        (venv / tool.STAMP).write_text(stamp)
    before = content(venv)
    assert run(tool, venv, monkeypatch) == 1 and content(venv) == before
    error = capsys.readouterr().err
    assert error.startswith("error: ") and f"{venv} was not made by make env" in error


def test_an_environment_that_it_made_is_made_anew_where_it_cannot_be_kept(tool, venv, monkeypatch):
    tool.write_stamp(venv, made=True, key="of another Python")
    other_version(venv)
    monkeypatch.setattr(tool, "fill", lambda venv: None)
    assert run(tool, venv, monkeypatch) == 0
    assert not (venv / "mine.txt").exists() and (venv / "bin/pip").exists()
    assert tool.read_stamp(venv) == {"made": True, "busy": True}, "until pip has ended"


def test_a_usable_one_of_the_users_is_filled_and_stays_the_users(tool, venv, monkeypatch):
    states = []
    monkeypatch.setattr(tool, "install_packages", lambda *_: states.append(tool.read_stamp(venv)))
    assert run(tool, venv, monkeypatch) == 1, "no torch after the installation"
    assert (venv / "mine.txt").exists() and states == [{"made": False, "busy": False}]
    assert tool.read_stamp(venv) == {"made": False}


def test_pip_that_ends_by_itself_is_continued_and_one_that_is_killed_is_not(tool, venv, monkeypatch):
    tool.write_stamp(venv, made=True, key="of older files")

    def fail(*_):
        assert tool.read_stamp(venv) == {"made": True, "busy": True}
        raise tool.EnvError("no network")

    monkeypatch.setattr(tool, "install_packages", fail)
    assert run(tool, venv, monkeypatch) == 1
    assert tool.read_stamp(venv) == {"made": True} and tool.usable(venv)

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "install_packages", kill)
    assert run(tool, venv, monkeypatch) == 130 and not tool.usable(venv)


def test_a_complete_one_is_left_alone(tool, venv, monkeypatch):
    site = next(venv.glob("lib/python*/site-packages"))
    for name in ("torch", "torchvision", "cv2", "pytest", "detectron2"):
        (site / f"{name}.py").write_text("")
    (site / "mic_det.pth").write_text(f"{TOOL.parents[1]}\n")
    tool.write_stamp(venv, made=True, key=tool.key())
    monkeypatch.setattr(tool, "fill", lambda venv: pytest.fail("nothing is to be installed"))
    assert run(tool, venv, monkeypatch) == 0
    (site / "detectron2.py").unlink()
    monkeypatch.setattr(tool, "fill", lambda venv: None)
    assert run(tool, venv, monkeypatch) == 0 and (venv / "mine.txt").exists(), "continued"
    assert json.loads((venv / tool.STAMP).read_text())["key"] == tool.key()


def test_tested_versions_leave_what_is_outside_alone(tool, monkeypatch):
    calls = []

    def pip_install(python, pins, *args):
        calls.append(pins)
        return "ERROR: No matching distribution found for numpy==9" if len(calls) == 2 else ""

    monkeypatch.setattr(tool, "pip_install", pip_install)
    monkeypatch.setattr(tool, "ask", lambda python, code, *_: '["numpy", "pyyaml"]' if code == tool.OUTSIDE else "")
    tool.install_packages("python", {"torch": "2.5.0", "torchvision": "0.20.0"})
    names = [x.split("==")[0].lower() for x in calls[1]]
    assert "matplotlib" in names and not {"numpy", "pyyaml"} & set(names)
    assert calls[1][-2:] == calls[2] == ["torch==2.5.0", "torchvision==0.20.0"] and names.count("torch") == 1
