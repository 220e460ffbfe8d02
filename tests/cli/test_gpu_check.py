"""``mic-det gpu-check``: its rehearsal in a bare environment without a network, its wheels, limits and table."""

import importlib
import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.data import refusal_here
from mic_det.benchmark.gpu_check import report, training
from mic_det.benchmark.gpu_check.plan import PARTS, REHEARSAL, Plan
from mic_det.benchmark.gpu_check.running import Check
from mic_det.cli.gpu_wheels import DETECTRON2, PACKAGES, fetch_wheels, find_wheel
from mic_det.errors import ConfigError
from mic_det.utils.outputs import Outputs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NO_NETWORK = """
import socket

def refused(*args, **kwargs):
    raise OSError("this test has no network")

class Local(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            refused()
        super().connect(address)

socket.socket, socket.getaddrinfo, socket.create_connection = Local, refused, refused
"""


def distribution(name):
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    if not found.files:
        pytest.skip(f"{name} has no list of its files")
    return found


def own_files(found):
    """Files of a distribution in site-packages; programs and caches are left out."""
    return [f for f in found.files if f.parts[0] != ".." and "__pycache__" not in f.parts]


def make_wheel(name, folder):
    """The wheel that an installed distribution came from, but for its list of hashes, which pip does not ask for."""
    found = distribution(name)
    (info,) = {f.parts[0] for f in own_files(found) if f.parts[0].endswith(".dist-info")}
    tags = [x.split(": ")[1].strip() for x in found.read_text("WHEEL").splitlines() if x.startswith("Tag: ")]
    interpreter, abi = tags[0].split("-")[:2]
    systems = ".".join(sorted({x.split("-")[2] for x in tags}))
    path = Path(folder, f"{info[: -len('.dist-info')]}-{interpreter}-{abi}-{systems}.whl")
    with zipfile.ZipFile(path, "w") as archive:
        names = [f.as_posix() for f in own_files(found) if f.name != "RECORD"]
        for file in names:
            archive.write(found.locate_file(file), file)
        archive.writestr(f"{info}/RECORD", "".join(f"{x},,\n" for x in [*names, f"{info}/RECORD"]))
    return path


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    for name in PACKAGES.values():
        make_wheel(name, folder)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python as on a bare machine: PyTorch and most packages are there, those of PACKAGES are not, nor a network."""
    folder = tmp_path_factory.mktemp("bare")
    absent = {f.parts[0] for name in PACKAGES.values() for f in own_files(distribution(name))}
    packages = folder / "packages"
    packages.mkdir()
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(site).iterdir():
            if entry.name not in absent and entry.suffix != ".pth" and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(f"{packages}\nimport no_network\n")
    (site / "no_network.py").write_text(NO_NETWORK)
    return folder / "venv/bin/python"


def clean_environment():
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "MIC_DET"))}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


# These run in the bare environment, each in a process. The tests import and use all of mic_det and of the packages. The
# other parts are called in this process, which has PyTorch already.
IN_PROCESSES = ("machine", "tests")


@pytest.fixture(scope="module")
def rehearsal(bare, wheels, tmp_path_factory):
    """OUT of a rehearsal of some parts, and what it printed."""
    folder = tmp_path_factory.mktemp("rehearsal")
    probe = "import importlib.util, sys; sys.exit(sum(importlib.util.find_spec(x) is not None for x in sys.argv[1:]))"
    assert subprocess.run([bare, "-c", probe, *PACKAGES]).returncode == 0, "or the wheels are not needed"
    command = [bare, ROOT / "tools/gpu_check.py", "--rehearse", "--wheels", wheels, "--output", "out"]
    command += ["--minutes", "15", "--only", *IN_PROCESSES]
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=3600
    )
    log = folder / "out/gpu_check.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-5000:] if log.exists() else "")
    return folder / "out", done.stdout


def test_the_rehearsal_in_a_bare_environment(rehearsal, wheels):
    out, printed = rehearsal
    result = json.loads((out / "gpu_check.json").read_text())
    assert {find_wheel(wheels, x).name for x in PACKAGES.values()} == set(result["installed"])
    found = {name: part["found"] for name, part in result["parts"].items()}
    assert found.keys() == set(IN_PROCESSES)
    assert found["tests"]["passed"] >= 8 and found["tests"]["failed"] == 0
    table = (out / "gpu_check.md").read_text()
    assert table.startswith("A rehearsal on the CPU") and table.strip() in printed
    assert "tests marked `gpu`" in table


@pytest.mark.usefixtures("clean_catalogs")
def test_the_other_parts_measure_what_the_table_shows(rehearsal, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))  # which the training sets
    monkeypatch.setattr(training, "FIRST", 1)  # fewer steps that are timed only
    monkeypatch.setattr(training, "TIMED", 2)
    result = json.loads((rehearsal[0] / "gpu_check.json").read_text())
    settings = replace(REHEARSAL, folder=str(tmp_path))
    found = {name: part["found"] for name, part in result["parts"].items()}
    for part in sorted((p for p in PARTS if p.name not in IN_PROCESSES), key=lambda p: p.stage):
        # each batch size has the same two processes: one is enough
        sizes = replace(settings, images=settings.images[-1:]) if part.name == "memory" else settings
        function = getattr(importlib.import_module(f"mic_det.benchmark.gpu_check.{part.module}"), part.function)
        function(sizes, lambda x, name=part.name: found.update({name: json.loads(json.dumps(x))}))
        result["parts"][part.name] = {"status": "done", "seconds": 1.0, "found": found[part.name]}
    assert found.keys() == {p.name for p in PARTS}
    assert set(found["steps"]) == {"1+1", "2+2"}
    for step in found["steps"].values():
        assert {"plain", "teacher", "mic", "mic_sada", "channels_last", "own_stream"} <= step["median_ms"].keys()
        assert all(0 < x < math.inf for x in [*step["median_ms"].values(), *step["ratios"].values()])
        assert {"EMA", "mask and colour", "teacher"} <= step["parts_ms"].keys()
        floor = step["median_ms"]["plain"] + step["median_ms"]["teacher"]
        assert step["ratios"]["mic"] == pytest.approx(step["median_ms"]["mic"] / floor), "of one round"
    assert set(found["memory"]["2+2"]["peak_mib"]) == {"plain", "mic"}
    assert found["memory"]["2+2"]["mic_to_allowed"] > 0 and found["compile"]["ratio"] > 0
    assert set(found["loader"]["png"]) == {"0", "1"} and all(x > 0 for x in found["loader"]["png"].values())
    assert found["training"]["mic"]["ap50"].keys() == {"minicity_foggy_val"}
    assert set(found["training"]["source_only"]["ap50"]) == {"minicity_clear_val", "minicity_foggy_val"}
    table = report.as_markdown(result)
    for text in ("tests marked `gpu`", "MIC step / floor", "peak memory", "channels_last", "torch.compile", "AP50"):
        assert text in table, text
    assert "no complete result" not in table


def test_without_a_gpu_the_check_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = ["--output", tmp_path / "out", "--only", "machine"]
    message = refusal_here("gpu_check.py", *arguments, monkeypatch=monkeypatch)
    assert "no usable GPU" in message and "--rehearse" in message


def test_a_part_beyond_its_limit_is_killed_and_the_others_keep_their_results(tmp_path):
    parts = {p.name: p for p in PARTS}
    short = [
        replace(parts["machine"], limit=600.0),
        replace(parts["tests"], limit=6.0),
        replace(parts["steps"], limit=1.0),
    ]
    check = Check(Plan(900.0, REHEARSAL, short), Outputs(tmp_path / "out", "gpu-check"), tmp_path, tmp_path)
    check.run()
    result = json.loads((tmp_path / "out/gpu_check.json").read_text())["parts"]
    assert result["machine"]["status"] == "done" and result["machine"]["found"]["cores"] == os.cpu_count()
    assert result["tests"]["status"] == "stopped after 6 s"
    assert result["steps"]["status"] == "no time left"
    assert not check.succeeded
    table = (tmp_path / "out/gpu_check.md").read_text()
    assert "The part tests has no complete result: stopped after 6 s." in table and "The part machine" not in table


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only", "loader"], "need the part files"),
        (["--minutes", "0"], "--minutes is 0"),
        (["--wheels", "absent"], "--wheels absent"),
        (["--fetch-wheels", "w", "--python", "3"], "--python 3"),
        (["--page", "absent.md"], "gpu_check.json"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refusal_here("gpu_check.py", *arguments, "--output", "out", monkeypatch=monkeypatch)


# -------------------------------------------------------------------------------------------- wheels


def test_wheels_are_fetched_once(wheels, tmp_path, monkeypatch):
    """From a folder in place of the package index; Detectron2's installer has its own tests."""
    for name in [x for x in os.environ if x.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(wheels)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    shutil.copy(find_wheel(wheels, DETECTRON2), tmp_path)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = fetch_wheels(tmp_path, python, constraints=tmp_path / "none")
    assert {x.name for x in tmp_path.iterdir()} == {x.name for x in wheels.iterdir()}
    assert f"{len(PACKAGES)} wheels for Python {python}" in text
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "none"))
    assert fetch_wheels(tmp_path, python, constraints=tmp_path / "none") == text, "nothing is fetched again"
    find_wheel(tmp_path, "yacs").unlink()
    with pytest.raises(ConfigError, match="pip download failed.*yacs"):
        fetch_wheels(tmp_path, python, constraints=tmp_path / "none")


def test_a_missing_wheel_is_named(bare, wheels, tmp_path):
    shutil.copytree(wheels, tmp_path / "some")
    find_wheel(tmp_path / "some", "iopath").unlink()
    command = [bare, ROOT / "tools/gpu_check.py", "--rehearse", "--wheels", "some", "--only", "machine"]
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("error: iopath cannot be imported"), done.stderr
