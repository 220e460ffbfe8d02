"""tools/report.py: the criteria without labels over steps, and the files of select and estimate as tables."""

import json

import pytest

from helpers.data import refusal_here
from helpers.report_pages import lines, report, write_run

pytestmark = pytest.mark.slow

SELECT = {
    "format": "mic_det select 1", "complete": True, "images": "fog_train", "num_images": 60, "judge": "fog_val",
    "combination": {"mask_agreement": 1.0}, "best": "out/model_0000299.pth", "sure": 0.62, "above_start": 0.97,
    "start_is_best": False, "checkpoints": [
        {"run": "mic", "step": 300, "start": False, "file": "out/model_0000299.pth", "score": 0.7124, "AP50": 81.25,
         "criteria": {"mask_agreement": 0.6, "entropy": None}},
        {"run": "start of <mic>", "step": 0, "start": True, "file": "s.pth", "score": None, "AP50": None,
         "criteria": {}},
    ],
}  # fmt: skip
CLASS = {"value": 40.04, "low": 31.0, "high": 50.0, "outside": []}
ESTIMATE = {
    "format": "mic_det estimate 1", "weights": "w.pth", "images": "fog_train", "num_images": 50, "source": "clear_val",
    "source_images": 30, "labels": 0, "AP50": {**CLASS, "outside": ["mean score"]},
    "classes": {"car": CLASS, "train": None},
    "meta_set": [{"kind": "none", "level": 0, "AP50": 70.0}, {"kind": "fog", "level": 0.02, "AP50": 33.3}],
}  # fmt: skip


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_the_choice_and_the_estimate_are_tables(tmp_path, monkeypatch):
    files = [write(tmp_path / "s.json", SELECT), write(tmp_path / "e.json", ESTIMATE)]
    run = write_run(tmp_path / "mic", lines())
    page = report(tmp_path, run, monkeypatch=monkeypatch, more=["--label-free", *files])
    choice, estimate = page.tables[1:3]
    assert choice == [
        ["checkpoint", "score", "AP50", "mask_agreement", "entropy"],
        ["mic, step 300", "0.712", "81.2", "0.600", "–"], ["start of <mic>, step 0", "–", "–", "–", "–"],
    ]  # fmt: skip
    assert estimate[1:] == [["all classes", "40.0", "31.0", "50.0"], ["car", "40.0", "31.0", "50.0"], ["train", *"–––"]]
    text = " ".join(page.texts["p"])
    for words in ("Chosen: out/model_0000299.pth", "in 62% of the", "better than its start in 97%", "fog_val",
                  "unlike all copies (mean score)", "AP50 from 33.3 to 70.0", "no target labels"):  # fmt: skip
        assert words in text, words


def test_a_better_start_and_an_early_end_are_warnings(tmp_path, monkeypatch):
    file = write(tmp_path / "s.json", {**SELECT, "start_is_best": True, "complete": False, "above_start": None})
    page = report(tmp_path, write_run(tmp_path / "mic", lines()), monkeypatch=monkeypatch, more=["--label-free", file])
    text = " ".join(page.texts["p"])
    assert "The start looks better than every adapted checkpoint." in text and "ended before all" in text


def test_criteria_are_curves_over_steps(tmp_path, monkeypatch):
    content = [json.loads(x) for x in lines()]
    for row, score in zip(content, (0.5, 0.625, 0.4)):
        row.update({"label_free/score": score, "label_free/mask_agreement": score / 2})
    page = report(tmp_path, write_run(tmp_path / "mic", map(json.dumps, content)), monkeypatch=monkeypatch)
    assert {"score without labels", "criteria without labels"} <= set(page.images)
    assert "is 0.625, after step 40" in " ".join(page.texts["p"])
    content[0]["label_free/start"] = 0.7
    page = report(tmp_path, write_run(tmp_path / "worse", map(json.dumps, content)), monkeypatch=monkeypatch)
    text = " ".join(page.texts["p"])
    assert "The start's score is 0.700, so the training did not help." in text and "weights of the start" in text


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"format": "mic_det select 1"}'])
def test_another_file_is_refused(tmp_path, monkeypatch, text):
    (tmp_path / "a.json").write_text(text)
    run = write_run(tmp_path / "mic", lines())
    message = refusal_here(
        "report.py", run, "--output", tmp_path / "r.html", "--label-free", tmp_path / "a.json", monkeypatch=monkeypatch
    )
    assert "a.json" in message and "mic-det select" in message and not (tmp_path / "r.html").exists()
