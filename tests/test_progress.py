"""Bars of progress, with tqdm and without it, and the bar of a training in another process."""

import json
import sys

import pytest

from mic_det.cli.adapt.progress import Progress
from mic_det.utils.parallel import run_parallel
from mic_det.utils.progress import progress_bar


@pytest.fixture(params=["tqdm", "no tqdm"])
def kind(request, monkeypatch):
    if request.param == "no tqdm":
        monkeypatch.setitem(sys.modules, "tqdm", None)
    return request.param


def test_the_count_is_shown_and_a_line_can_be_written(kind, capsys):
    with progress_bar(120, "image", "fog") as bar:
        for i in range(120):
            bar.update()
            if i == 60:
                bar.write("a line", sys.stdout)
    shown = capsys.readouterr()
    assert "120/120" in shown.err if kind == "tqdm" else shown.err == "50/120 images\n100/120 images\n"
    assert shown.out == "a line\n"


def test_a_bar_that_is_not_shown_prints_nothing(kind, capsys):
    with progress_bar(120, "image", shown=False) as bar:
        bar.move_to(60, "x")
        bar.move_to(120)
    assert capsys.readouterr() == ("", "")
    assert run_parallel(str, range(60), workers=1, progress=False) == list(map(str, range(60)))
    assert capsys.readouterr() == ("", "")


def test_a_count_that_jumps_is_printed_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress_bar(200, "step") as bar:
        for done in (20, 40, 60, 60, 80, 100, 160):
            bar.move_to(done, f"loss={done}")
    assert capsys.readouterr().err.splitlines() == [
        "60/200 steps, loss=60", "100/200 steps, loss=100", "160/200 steps, loss=160",
    ]  # fmt: skip


def test_the_bar_of_a_training_follows_its_metrics(tmp_path, capsys):
    file = tmp_path / "metrics.json"
    with Progress(file, 100) as progress:
        assert "0/100" in capsys.readouterr().err
        file.write_text(json.dumps({"iteration": 19, "total_loss": 1.25}) + "\n" + '{"iteration": 39, "tot')
        progress.update()
        shown = capsys.readouterr().err
        assert "20/100" in shown and "loss=1.250" in shown
        progress.update()
        assert capsys.readouterr().err == "", "a log file gets no line where nothing has changed"
    assert "100/100" in capsys.readouterr().err


def test_the_bar_of_a_training_that_fails_stays_where_it_was(tmp_path, capsys):
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 19}) + "\n")
    with pytest.raises(KeyError), Progress(tmp_path / "metrics.json", 100):
        raise KeyError
    shown = capsys.readouterr().err
    assert "20/100" in shown and "100/100" not in shown
