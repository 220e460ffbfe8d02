"""The wheel, installed in a folder of its own; the Dockerfile and the workflow, as far as that goes without Docker."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import mic_det

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "mic_det_console.py", "mic_det", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the files that the Dockerfile copies, as ``python -m build --no-isolation`` does."""
    folder = tmp_path_factory.mktemp("build")
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / "configs/of_an_earlier_build.txt").touch()
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    for _ in range(2):  # the second build finds the first one's leftovers
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        (folder / "configs/of_an_earlier_build.txt").unlink(missing_ok=True)
    (file,) = (folder / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(list(map(str, command)), check=True)
    return target


@pytest.fixture
def run(installed, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(tmp_path)}

    def run(*args):
        command = [str(installed / "bin/mic-det"), *map(str, args)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_the_wheel_holds_the_package_the_configs_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {p.relative_to(ROOT).as_posix() for p in (ROOT / "mic_det").rglob("*") if p.is_file()}
    configs = {f"mic_det/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "configs").rglob("*") if p.is_file()}
    expected = {x for x in package | configs if "__pycache__" not in x} | {"mic_det_console.py"}
    assert "mic_det/experiments/templates/report.html" in expected
    assert {n for n in names if ".dist-info/" not in n} == expected
    metadata = zipfile.ZipFile(wheel).read(f"mic_det-{mic_det.__version__}.dist-info/METADATA").decode()
    extras = set(re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE))
    assert extras >= {"fast", "formats", "onnx", "timm", "wandb", "mlflow", "docs", "dev"}
    assert "License-Expression: Apache-2.0" in metadata and "Requires-Dist: torch>=2.3" in metadata


def test_the_installed_program_works_outside_of_the_checkout(run, tmp_path):
    assert run("--version") == f"mic-det {mic_det.__version__}\n"
    assert "adapt" in run("--help")
    run("make-minicity", "--train", 4, "--val", 2, "--width", 256, "--height", 128, "--workers", 1)
    text = run("check", "--config-file", "minicity/mic.yaml", "--workers", 1, "MODEL.WEIGHTS", "")
    assert "no problems" in text and "minicity_foggy_train" in text
    assert {p.name for p in tmp_path.iterdir()} == {"minicity"}


# ------------------------------------------------------------------------------------- without Docker


def instructions(name):
    """(instruction, arguments) of a Dockerfile, comments left out and continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / name).read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]


def test_what_the_dockerfile_copies_is_there_and_is_all_that_a_wheel_needs():
    copied = []
    for what, arguments in instructions("Dockerfile"):
        if what in ("COPY", "ADD"):
            copied += shlex.split(arguments)[:-1]
    assert set(SHIPPED) <= set(copied)
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch.fnmatch(name, k) or name.startswith(f"{k}/") for k in kept), f"{name} is ignored"


def test_ci_runs_what_the_dockerfile_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [
        step["run"].split("#")[0].strip() for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    runs = [arguments for what, arguments in instructions("Dockerfile") if what == "RUN"]
    assert runs and set(runs) <= set(steps)
    scripts = [step for step in steps if step.startswith(".ci/")]
    assert {".ci/run", ".ci/install.sh"} == set(scripts)
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK)
        subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert "zensical build --strict" in steps


def test_the_base_image_is_an_argument():
    found = instructions("Dockerfile")
    assert found[0][0] == "ARG" and found[0][1].startswith("BASE=") and found[1] == ("FROM", "${BASE}")
