"""The code blocks of the documentation run as they are printed; links, badges and the built pages hold."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from helpers.data import forget_registered_sets, keep_loggers
from mic_det.cli import ablation
from mic_det.data.minicity import make_minicity

ROOT = Path(__file__).parents[1]


def blocks(page):
    """(line, code) of each ```python block."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, m.start(1)), m[1]) for m in found]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A current folder with the configs of the repository and a miniature city of few images."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    make_minicity(tmp_path / "datasets/minicity", 6, 2, (256, 128), seed=3, workers=1, progress=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", "datasets")
    before = set(META_ARCH_REGISTRY._obj_map)
    with forget_registered_sets(), keep_loggers():
        yield tmp_path
    for name in set(META_ARCH_REGISTRY._obj_map) - before:
        META_ARCH_REGISTRY._obj_map.pop(name)


def run_blocks(page):
    """Run the blocks of a page in one session; returns how many there are."""
    namespace, found = {"__name__": page.stem}, blocks(page)
    for line, code in found:
        # line numbers of errors are the page's
        exec(compile("\n" * line + code, str(page), "exec"), namespace)
    return len(found)


@pytest.mark.slow
def test_the_blocks_of_extending(checkout, capsys):
    assert run_blocks(ROOT / "docs/extending.md") >= 7
    printed = capsys.readouterr().out
    assert "['source', 'source', 'target', 'target']" in printed and "source/loss_cls" in printed
    assert "True 0.5" in printed
    for run in ("default_trainer", "stripes"):
        folder = checkout / "output/extending" / run
        assert int(torch.load(folder / "model_final.pth", weights_only=True)["model"]["num_steps"]) == 2
        assert json.loads((folder / "metrics.json").read_text().splitlines()[-1])["source/loss_cls"] > 0


@pytest.mark.slow
def test_the_lines_of_the_readme(checkout, capsys):
    assert run_blocks(ROOT / "README.md") == 1
    assert "pred_boxes: Boxes" in capsys.readouterr().out
    (weights,) = checkout.glob("output/**/model_final.pth")
    assert int(torch.load(weights, weights_only=True)["model"]["num_steps"]) == 2
    lines = [line for _, code in blocks(ROOT / "README.md") for line in code.splitlines() if line]
    assert len(lines) <= 12


@pytest.mark.slow
def test_the_model_of_the_page_on_training(checkout):
    assert run_blocks(ROOT / "docs/training.md") == 1


@pytest.mark.slow
def test_the_notebook(checkout, monkeypatch):
    """As ``jupytext --to ipynb`` would make it: all cells in one session, here with two steps and few images."""
    monkeypatch.setenv("NOTEBOOK_STEPS", "2")
    monkeypatch.setenv("NOTEBOOK_IMAGES", "4")
    page = ROOT / "docs/notebook.md"
    assert page.read_text(encoding="utf-8").startswith("---\njupyter:\n")
    assert run_blocks(page) >= 5
    for name in ("panels", "before_after"):
        picture = cv2.imread(str(checkout / f"output/notebook/{name}.png"))
        assert picture.std() > 20, "a picture, not an empty figure"
    weights = {run: torch.load(checkout / f"output/notebook/{run}/model_final.pth", weights_only=True)["model"]
               for run in ("source_only", "mic")}  # fmt: skip
    assert int(weights["mic"]["num_steps"]) == 2 and "num_steps" not in weights["source_only"]


# ------------------------------------------------------------------------------ pages

PAGES = ["README.md", "CONTRIBUTING.md", "datasets/README.md", "configs/_methods/README.md",
         *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]  # fmt: skip
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text):
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Names of a page's headings as GitHub and the site make them: small letters, hyphens, no punctuation."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name):
    page = ROOT / name
    wrong = []
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue  # another site
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
        if name.startswith("docs/") and (ROOT / "docs").resolve() not in target.resolve().parents:
            wrong.append(f"{link} is not in docs/, so that the site lacks it")
    assert not wrong


def test_every_page_is_in_the_navigation_and_every_picture_on_a_page():
    navigation = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(navigation) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))
    linked = {link.split("/")[-1] for name in PAGES for link in LINK.findall((ROOT / name).read_text("utf-8"))}
    pictures = {p.name for p in (ROOT / "docs/images").iterdir() if not p.name.startswith(".")}
    assert pictures <= linked
    assert all(p.stat().st_size < 300_000 for p in (ROOT / "docs/images").iterdir())


def test_the_command_of_every_picture_is_named():
    rows = re.findall(r"^\| (`\S+`.*?) \| (.+) \|$", (ROOT / "docs/visualising.md").read_text("utf-8"), re.MULTILINE)
    made = {name: how for names, how in rows for name in re.findall(r"`([\w*]+\.(?:jpg|png|svg))`", names)}
    for picture in (ROOT / "docs/images").iterdir():
        (how,) = [how for name, how in made.items() if fnmatch.fnmatch(picture.name, name)]
        assert (
            how == "drawn by hand" if picture.suffix == ".svg" else (ROOT / re.search(r"`([^\s`]+)", how)[1]).is_file()
        )
    assert all(list((ROOT / "docs/images").glob(name)) for name in made)
    assert "`DIR/curves.png`" in made["ablation_curves.png"] and "curves.png" in ablation.RESULTS


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130 and max(map(len, text.splitlines())) <= 140


def results_table(name):
    """Method -> its numbers "AP50 ± s.d." and "gap closed" in the marked table of a page."""
    lines = (ROOT / name).read_text(encoding="utf-8").split("<!-- results -->")[1].splitlines()
    rows = [line for line in lines if re.search(r"\d ± \d", line)]
    names = [re.sub(r"\(.*\)|\*", "", row.split("|")[1]).strip() for row in rows]  # without remarks and emphasis
    return {name: re.findall(r"\d+\.\d ± \d+\.\d|\d+ %", row) for name, row in zip(names, rows)}


def test_the_numbers_of_the_readme_are_those_of_the_page_of_results():
    readme, results = results_table("README.md"), results_table("docs/results.md")
    assert len(readme) == 4 and all(len(numbers) == 2 for numbers in readme.values())
    assert readme.items() <= results.items()


def test_badges_say_what_the_package_says():
    setup = "".join((ROOT / n).read_text("utf-8") for n in ("setup.py", "pyproject.toml") if (ROOT / n).is_file())
    badge = {
        name: (ROOT / f"docs/images/badge_{name}.svg").read_text("utf-8") for name in ("licence", "python", "pytorch")
    }
    oldest = re.search(r"""(?:python_requires|requires-python) ?= ?["']>=([\d.]+)""", setup)[1]
    newest = re.search(r"install Python [\d.]+ to ([\d.]+)", (ROOT / "Makefile").read_text("utf-8"))[1]
    assert f">{oldest} to {newest}<" in badge["python"]
    assert f">{re.search('torch>=([0-9.]+)', setup)[1]} or newer<" in badge["pytorch"]
    assert re.search(r"""license ?= ?["']([\w.-]+)""", setup)[1] in badge["licence"]
    for text in badge.values():
        ElementTree.fromstring(text)


def test_the_site_is_built_without_a_warning(tmp_path):
    """Missing pages, pictures and headings are warnings, which --strict makes errors."""
    pytest.importorskip("zensical")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {p.stem for p in (tmp_path / "site").glob("*.html")}
    assert pages >= {p.stem for p in (ROOT / "docs").glob("*.md")}
    assert "closes 79 %" in (tmp_path / "site/results.html").read_text(encoding="utf-8")
    (tmp_path / "docs/index.md").write_text("# Home\n\n[a page](absent.md)\n")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode != 0
