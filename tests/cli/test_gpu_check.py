"""``mic-det gpu-check``: its rehearsal in a bare environment without a network, its wheels, limits and table."""

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
from mic_det.benchmark.gpu_check import report
from mic_det.benchmark.gpu_check.plan import PARTS, REHEARSAL, Plan
from mic_det.benchmark.gpu_check.running import Check
from mic_det.cli.gpu_wheels import DETECTRON2, PACKAGES, fetch_wheels, find_wheel
from mic_det.errors import ConfigError, DataError
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


def test_the_rehearsal_in_a_bare_environment(bare, wheels, tmp_path):
    probe = "import importlib.util, sys; sys.exit(sum(importlib.util.find_spec(x) is not None for x in sys.argv[1:]))"
    assert subprocess.run([bare, "-c", probe, *PACKAGES]).returncode == 0, "or the wheels are not needed"
    command = [
        bare,
        ROOT / "tools/gpu_check.py",
        "--rehearse",
        "--wheels",
        wheels,
        "--output",
        "out",
        "--minutes",
        "15",
    ]
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=3600
    )
    log = tmp_path / "out/gpu_check.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-5000:] if log.exists() else "")
    result = json.loads((tmp_path / "out/gpu_check.json").read_text())
    assert {find_wheel(wheels, x).name for x in PACKAGES.values()} == set(result["installed"])
    found = {name: part["found"] for name, part in result["parts"].items()}
    assert found.keys() == {p.name for p in PARTS}
    assert found["tests"]["passed"] >= 8 and found["tests"]["failed"] == 0
    for step in found["steps"].values():
        assert {"plain", "teacher", "mic", "mic_sada", "channels_last", "own_stream"} <= step["median_ms"].keys()
        assert all(0 < x < math.inf for x in [*step["median_ms"].values(), *step["ratios"].values()])
        assert {"EMA", "mask and colour", "teacher"} <= step["parts_ms"].keys()
        floor = step["median_ms"]["plain"] + step["median_ms"]["teacher"]
        assert step["ratios"]["mic"] == pytest.approx(step["median_ms"]["mic"] / floor), "of one round"
    assert set(found["memory"]["1+1"]["peak_mib"]) == {"plain", "mic"}
    assert found["memory"]["2+2"]["mic_to_allowed"] > 0 and found["compile"]["ratio"] > 0
    assert set(found["loader"]["png"]) == {"0", "1"} and all(x > 0 for x in found["loader"]["png"].values())
    assert found["training"]["mic"]["ap50"].keys() == {"minicity_foggy_val"}
    assert set(found["training"]["source_only"]["ap50"]) == {"minicity_clear_val", "minicity_foggy_val"}
    table = (tmp_path / "out/gpu_check.md").read_text()
    assert table.startswith("A rehearsal on the CPU") and table.strip() in done.stdout
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


# ------------------------------------------------------------------------------------- table and page


def example():
    """A result with numbers that can be checked by hand."""
    step = {
        "images": 4, "median_ms": {"plain": 300.0, "teacher": 100.0, "mic": 500.0, "mic_sada": 700.0},
        "ratios": {"mic": 1.25, "mic_sada": 1.1, **dict.fromkeys(report.VARIANTS, 0.9)},
        "parts_ms": {"EMA": 5.0, "mask and colour": 10.0, "other": 485.0},
        "waits": {"plain": {"torch/z.py:9": 7}, "mic": {"mic_det/modeling/a.py:3": 2, "torch/z.py:9": 1}},
    }  # fmt: skip
    found = {
        "machine": {"gpu": "A card", "hardware": "A card, indeed", "gpu_memory_gib": 79.1, "driver": "1", "cuda": "13"},
        "tests": {"passed": 8, "failed": 1, "skipped": 0, "messages": {"test_x": "E  boom\n"}},
        "steps": {"4+4": step},
        "memory": {"4+4": {"peak_mib": {"plain": 1000.0, "mic": 1200.0}, "weights_mib": 150, "mic_to_allowed": 0.949}},
        "loader": {"png": {"4": 15.9, "8": 16.1}},
        "training": {x: {"steps": 9, "seconds": 3.0, "ap50": {"minicity_foggy_val": v}}
                     for x, v in (("source_only", 50.0), ("mic", 55.0))},
    }  # fmt: skip
    parts = {name: {"status": "done", "seconds": 1.0, "found": x} for name, x in found.items()}
    parts["compile"] = {"status": "stopped after 60 s", "seconds": 60.0, "found": {}, "error": "first\nlast | line\n"}
    return {"rehearsal": False, "size": [800, 1600], "parts": parts, "seconds": 200.0}


def test_the_table_says_what_meets_its_target():
    table = report.as_markdown(example())
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    verdicts = {what: row.split("|")[-2].strip() for what, row in rows.items()}
    assert verdicts["tests marked `gpu`"] == "missed"
    assert verdicts["4 + 4: MIC step / floor"] == "missed" and "1.250 (500.0 ms)" in table
    assert verdicts["4 + 4: peak of MIC / (plain + weights of 150 MiB + 10 %)"] == "met"
    assert "EMA 1.0 %, mask and colour 2.0 %" in table
    # a step of 8 images in half a second takes 16 images a second
    speeds = [v for what, v in verdicts.items() if what.startswith("loader")]
    assert speeds == ["missed", "met"] and ">= 16.0" in table
    assert verdicts["miniature city, MIC: AP50"] == "met" and "> 50.0" in table
    assert "waits 3 times for the GPU in a MIC step, 2 of them in mic_det itself: `mic_det/modeling/a.py:3` 2." in table
    assert "`test_x` failed: `E boom`" in table and "compile has no complete result" in table
    assert "`last / line`" in table, "no row of the table is broken"
    assert all(line.count("|") == 5 for line in table.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("name", list(example()["parts"]))
def test_the_table_is_written_without_what_a_part_did_not_find(name):
    whole, result = report.as_markdown(example()), example()
    result["parts"][name]["found"] = {}
    rows = [x for x in report.as_markdown(result).splitlines() if x.startswith("| ")]
    others = [x for x in rows if "loader" not in x and "AP50" not in x]  # which are compared with another part
    assert len(rows) > 3 and set(others) <= set(whole.splitlines())
    del result["parts"][name]
    assert report.as_markdown(result)


def test_the_table_goes_between_the_markers_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.insert_into_page(page, example())
    first = page.read_text()
    assert first.startswith("before\n") and first.endswith(f"{report.END}\nafter\n") and "old" not in first
    assert "A card, indeed" in first
    report.insert_into_page(page, example())
    assert page.read_text() == first
    report.insert_into_page(page, None)
    assert report.NOT_MEASURED in page.read_text() and "A card" not in page.read_text()
    with pytest.raises(DataError, match="rehearsal"):
        report.insert_into_page(page, {**example(), "rehearsal": True})
    page.write_text("no markers")
    with pytest.raises(DataError, match="needs one line"):
        report.insert_into_page(page, example())


def test_the_page_of_performance_says_whether_a_gpu_was_measured(tmp_path):
    """Either not at all, or by a whole table with the machine's name; the tool can replace it."""
    page = tmp_path / "performance.md"
    shutil.copy(ROOT / "docs/performance.md", page)
    shown = page.read_text(encoding="utf-8").split(report.BEGIN)[1].split(report.END)[0]
    assert report.NOT_MEASURED in shown or "| what | value | target |" in shown
    report.insert_into_page(page, example())
    assert "A card, indeed" in page.read_text(encoding="utf-8")
