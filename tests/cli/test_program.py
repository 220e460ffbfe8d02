"""``mic-det``: its help, its version, the configs that it brings along, and what it says without Detectron2."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

import mic_det
import mic_det_console
from helpers.data import refusal_here
from mic_det.cli.program import COMMANDS
from mic_det.config.bundled import config_folder, find_config
from mic_det.engine.launch import argument_parser
from mic_det.engine.setup import config_of, get_mic_cfg
from mic_det.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SCREEN, COLUMNS = 45, 90
PUBLIC = [name for name, command in COMMANDS.items() if command.help]


def call(monkeypatch, *argv):
    """The exit code of ``mic-det ARGV``."""
    with pytest.raises(SystemExit) as end:
        mic_det_console.main(list(argv))
    return end.value.code


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


def test_the_overview_fits_a_screen_and_names_every_command(screen, monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= SCREEN and all(name in text for name in COMMANDS)
    assert call(monkeypatch) == 0 and capsys.readouterr().out == text, "without arguments: the help"


@pytest.mark.parametrize("command", PUBLIC)
def test_help_of_a_command_fits_a_screen_and_has_an_example(command, screen, monkeypatch, capsys):
    assert call(monkeypatch, command, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= SCREEN
    assert any(line.startswith(f"    mic-det {command}") for line in lines), "an example"
    assert "{" not in "".join(lines).replace("{teacher,student}", ""), "no placeholder is left"


def test_every_command_has_its_body_and_every_file_of_arguments_its_command():
    folder = Path(mic_det.__file__).parent / "cli"
    modules = {command.module for command in COMMANDS.values()}
    assert {p.stem for p in (folder / "arguments").glob("*.py")} - {"__init__"} == modules - {"install_detectron2"}
    for module in modules:
        assert callable(importlib.import_module(f"mic_det.cli.{module}").main)


def test_version_is_the_packages(monkeypatch, capsys):
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"mic-det {mic_det.__version__}\n"


def test_unknown_commands_are_refused(monkeypatch, capsys):
    assert call(monkeypatch, "fly") == 2 and "adapt" in capsys.readouterr().err


def test_trainings_take_detectron2s_arguments_with_its_defaults():
    def options(parser):
        return {
            a.dest: (sorted(a.option_strings), a.default, a.type, a.nargs)
            for a in parser._actions
            if not isinstance(a, argparse._HelpAction)
        }

    ours, theirs = options(argument_parser()), options(default_argument_parser())
    theirs["dist_url"] = (["--dist-url"], "auto", None, None)  # a port of Detectron2's choice
    theirs["opts"], ours["opts"] = theirs["opts"][3], ours["opts"][3]
    assert ours == theirs


@pytest.mark.parametrize("name", ["minicity/mic.yaml", "configs/minicity/mic.yaml"])
def test_bundled_configs_are_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(find_config(name)).samefile(ROOT / "configs/minicity/mic.yaml")
    args = argparse.Namespace(config_file=name, opts=["MODEL.DEVICE", "cpu"], modules=[])
    cfg = config_of(args)
    assert os.path.isabs(args.config_file), "Detectron2 opens it once more"
    assert cfg.MODEL.WEIGHTS == "output/minicity/source_only/model_final.pth", "below the current folder"


def test_a_file_of_the_user_comes_before_a_bundled_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minicity").mkdir()
    (tmp_path / "minicity/mic.yaml").write_text("VERSION: 2\nSEED: 77\nMODEL: {DEVICE: cpu}\n")
    assert find_config("minicity/mic.yaml") == "minicity/mic.yaml"
    assert get_mic_cfg("minicity/mic.yaml").SEED == 77


@pytest.mark.parametrize("name, hint", [("minicity/mik.yaml", "minicity/mic.yaml"), ("../setup.py", "no config file")])
def test_what_is_neither_here_nor_there_is_refused(name, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=hint):
        find_config(name)
    message = refusal_here("export.py", "--config-file", name, "--output", "a.pth", monkeypatch=monkeypatch)
    assert name in message


def test_all_shipped_configs_have_a_short_name():
    for path in config_folder().rglob("*.yaml"):
        assert Path(find_config(path.relative_to(config_folder()).as_posix())).samefile(path)


def python(code, tmp_path, *args):
    """Run Python code where detectron2 and torch cannot be imported; returns (exit code, stdout, stderr)."""
    for name in ("detectron2", "torch"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} is not here')\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=tmp_path, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


PROGRAM = "import sys, mic_det_console; sys.exit(mic_det_console.main(sys.argv[1:]))"


def test_without_detectron2_and_torch_there_is_help_and_a_way_to_install_it(tmp_path):
    for args in (["--help"], ["--version"], ["adapt", "--help"], ["train", "--help"], ["install-detectron2", "--help"]):
        code, out, err = python(PROGRAM, tmp_path, *args)
        assert (code, err) == (0, "") and out
    code, _, err = python(PROGRAM, tmp_path, "check", "--config-file", "minicity/mic.yaml")
    assert code == 1 and err.startswith("error: mic_det needs Detectron2") and err.count("\n") == 1
    assert err.index("detectron2.readthedocs.io") < err.index("mic-det install-detectron2"), "upstream's way first"
    code, _, err = python("import mic_det", tmp_path)
    assert code == 1 and "mic-det install-detectron2" in err.splitlines()[-1]
