"""Report and documentation in a real browser: no error in its console, nothing that sticks out of a narrow window."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.browser import find_chromium, open_page
from helpers.data import write_image
from mic_det.experiments.report import build_report
from mic_det.experiments.run_files import read_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_chromium(), reason="no Chromium is installed")]
ROOT = Path(__file__).parents[1]
WIDTHS = (400, 1400)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return tmp_path_factory.mktemp("profile")


def test_an_error_and_a_wide_table_would_be_found(tmp_path, profile):
    cells = "".join(f"<td>{'wide' * 30}</td>" for _ in range(3))
    body = f"<title>bad</title><img src='absent.png'><table><tr>{cells}</tr></table><script>absent()</script>"
    (tmp_path / "bad.html").write_text(f"<!DOCTYPE html><html><body>{body}</body></html>")
    found = open_page(tmp_path, "bad.html", 400, profile)
    assert any("absent is not defined" in line for line in found["console"])
    assert found["scroll"] > 1000 and "TABLE." in found["wide"] and len(found["broken"]) == 1


def write_run(folder):
    """A run with long names, many classes and a picture."""
    rows = [f'{{"iteration": {i}, "total_loss": {2 - i / 100}, "source/loss_cls": 1.0, "masked/loss_cls": 0.5}}\n'
            for i in range(0, 100, 20)]  # fmt: skip
    classes = ", ".join(f'"bbox/AP50-a class with a long name {i}": {50 + i}' for i in range(12))
    rows.append(f'{{"iteration": 99, "bbox/AP": 30.0, "bbox/AP50": 60.0, {classes}}}\n')
    folder.mkdir()
    (folder / "metrics.json").write_text("".join(rows))
    (folder / "config.yaml").write_text("OUTPUT_DIR: " + "a_long_path/" * 30 + "\n")
    write_image(folder / "visuals/0000100_1.jpg", np.full((712, 1920, 3), 90, np.uint8))
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    names = [f"a_run_with_quite_a_long_name_{i}" for i in range(4)]
    runs = [read_run(write_run(folder / name)) for name in names]
    (folder / "report.html").write_text(build_report(runs), encoding="utf-8")
    return folder


@pytest.mark.parametrize("width", WIDTHS)
def test_the_report(report, profile, width):
    found = open_page(report, "report.html", width, profile)
    assert found["title"].startswith("4 runs")
    assert found["console"] == [] and found["broken"] == [] and found["wide"] == []
    assert found["scroll"] <= width


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, check=True)
    return folder / "site"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", ["index", "results", "configuration", "visualising"])
def test_pages_of_the_documentation(site, profile, page, width):
    found = open_page(site, f"{page}.html", width, profile)
    assert found["title"].endswith("mic_det")
    assert found["console"] == [] and found["broken"] == [] and found["wide"] == []
    assert found["scroll"] <= width
