"""tools/report.py for runs that hardly began, what they ran on, and steps that are counted alike."""

import json

from helpers.data import run_tool_here
from mic_det.experiments.run_files import read_run
from mic_det.utils.hardware import describe_hardware
from mic_det.visualization.curves import bar_chart, line_chart

CONFIG = "MODEL: {META_ARCHITECTURE: MIC}\nDATASETS: {TEST: [fog_val]}\nSOLVER: {MAX_ITER: 60}\nSEED: 7\n"


def write_run(folder, lines, log=""):
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "log.txt").write_text(log)
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_a_run_that_was_killed_before_its_first_metrics_stands_beside_the_others(tmp_path, monkeypatch, capsys):
    log = "[11/24 13:47:54] detectron2 INFO: Command line arguments: Namespace(config_file='mic.yaml', opts=[])\n"
    early = write_run(tmp_path / "early", [], log)
    missing = write_run(tmp_path / "missing", [])
    (missing / "metrics.json").unlink()
    done = [{"iteration": 59, "total_loss": 1.0}, {"iteration": 60, "bbox/AP50": 12.0}]
    runs = [early, missing, write_run(tmp_path / "done", done)]
    run_tool_here("report.py", *runs, "--output", tmp_path / "r.html", monkeypatch=monkeypatch)
    printed, html = capsys.readouterr().out, (tmp_path / "r.html").read_text()
    for name in ("early", "missing"):
        assert f"{name}: there are no metrics: the run ended before its first 20 steps" in printed
    assert "0 of 60" in html and "60 of 60" in html and "12.0" in html
    assert "Namespace(config_file=&#39;mic.yaml&#39;, opts=[])" in html


def test_evaluations_are_told_by_the_steps_taken_before_them(tmp_path):
    """Detectron2 writes the evaluation after 20 steps at iteration 19, and that after all 60 at 60."""
    lines = [{"iteration": i, "bbox/AP50": float(i)} for i in (19, 39, 60)]
    assert list(read_run(write_run(tmp_path / "run", lines)).evaluations()["fog_val"]) == [20, 40, 60]
    (tmp_path / "run/config.yaml").write_text("a: [")  # the end is not known: the last metrics tell
    assert list(read_run(tmp_path / "run").evaluations()["test set"]) == [20, 40, 60]


def test_hardware_is_in_the_report(tmp_path, monkeypatch):
    line = f"[11/24 13:47:54] detectron2 INFO: Hardware: {describe_hardware()}\n"
    run = write_run(tmp_path / "run", [{"iteration": 19, "total_loss": 1.0}], line)
    run_tool_here("report.py", run, "--output", tmp_path / "r.html", monkeypatch=monkeypatch)
    assert f"hardware {describe_hardware()}" in (tmp_path / "r.html").read_text()


def test_the_highest_marker_is_inside_the_chart():
    axes = line_chart("t", {"a": ([1, 2], [65.0, 64.0]), "b": ([1], [72.0])}).axes[0]
    assert axes.get_ylim()[0] == 0 and 74 < axes.get_ylim()[1] < 80
    assert line_chart("t", {"a": ([1, 2], [0.0, 0.0])}).axes[0].get_ylim() == (0, 1)


def test_names_below_many_bars_do_not_run_into_each_other():
    names = ["traffic light", "traffic sign", "vegetation", "motorcycle"] * 5
    figure = bar_chart("t", [f"{n} {i}" for i, n in enumerate(names)], {"a": [1.0] * 20})
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    # slanted, and ending below their bars: next to each other, the distance of two bars is a text's height or more
    assert all(x.get_rotation() == 40 and x.get_horizontalalignment() == "right" for x in labels)
    at = [figure.axes[0].transData.transform((i, 0))[0] for i in (0, 1)]
    height = labels[0].get_fontsize() * figure.dpi / 72
    assert (at[1] - at[0]) * 0.64 > 0.9 * height  # sin 40 degrees
