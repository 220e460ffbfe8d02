"""The table of ``mic-det gpu-check``, and the page that it goes into."""

import shutil
from pathlib import Path

import pytest

from mic_det.benchmark.gpu_check import report
from mic_det.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


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
