"""Plans are checked, and the table is what one works out by hand from the runs' files."""

import json

import pytest
import yaml

from helpers.data import refusal_here, run_tool_here
from mic_det.cli.program import read_arguments
from mic_det.config.bundled import config_folder
from mic_det.errors import ConfigError
from mic_det.experiments.ablation import (
    collect,
    folder_name,
    gap_closed,
    mean_curves,
    read_plan,
    run_folder,
    sweep_points,
    table,
)
from mic_det.visualization.curves import sweep_chart

CELLS = {"base": "b.yaml", "A + B": {"CONFIG": "a.yaml", "OPTS": ["SOLVER.MAX_ITER", 7]}, "top": "a.yaml"}
PLAN = {
    "BURN_IN": "b.yaml", "CELLS": CELLS, "TEST": "fog", "SEEDS": [2, 3], "BASELINE": "base", "ORACLE": "top",
    "PAIRS": [["A + B", "base"]], "CURVE": ["A + B"],
}  # fmt: skip


def write_plan(folder, **changes):
    for name in ("a.yaml", "b.yaml"):
        (folder / name).write_text("VERSION: 2\n")
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**PLAN, **changes}.items() if v is not None}, sort_keys=False))
    return path


def write_run(output, seed, cell, evaluations, seconds=0.5, finished=True):
    """A run of 20 steps; ``evaluations`` maps the step after which it was evaluated to (AP50, AP50 of cars)."""
    folder = run_folder(output, seed, cell)
    folder.mkdir(parents=True)
    rows = [{"iteration": 19, "total_loss": 1.0, "time": seconds}]
    rows += [{"iteration": s - 1, "bbox/AP50": ap, "bbox/AP50-car": car} for s, (ap, car) in evaluations.items()]
    rows.sort(key=lambda r: r["iteration"])  # as they are written: a step that goes back is another run's
    (folder / "metrics.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "config.yaml").write_text("DATASETS: {TEST: [fog]}\nSOLVER: {MAX_ITER: 20}\n")
    if finished:
        (folder / "model_final.pth").write_bytes(b"")


@pytest.fixture
def runs(tmp_path):
    plan, output = read_plan(write_plan(tmp_path)), tmp_path / "out"
    for seed, base, ours, top in ((2, 40.0, 55.0, 60.0), (3, 44.0, 51.0, 64.0)):
        write_run(output, seed, None, {20: (30.0 + seed, 1.0)})
        write_run(output, seed, "base", {20: (base, 10.0)})
        write_run(output, seed, "A + B", {10: (ours - 5, 0.0), 20: (ours, 20.0 + seed)}, seconds=1.8)
        write_run(output, seed, "top", {20: (top, 30.0)})
    return plan, output


def test_means_spreads_gap_and_hours_are_those_worked_out_by_hand(runs):
    plan, output = runs
    results = collect(plan, output)
    assert list(results) == ["burn-in", "base", "A + B", "top"]
    ours = results["A + B"]
    assert ours.mean("AP50") == pytest.approx(53.0) and ours.spread("AP50") == pytest.approx(8**0.5)
    # means 42, 53, 62
    assert gap_closed(plan, results, "A + B") == pytest.approx(11 / 20)
    assert ours.hours == pytest.approx([20 * 1.8 / 3600] * 2)
    assert mean_curves(plan, results) == {"A + B": ([0, 10, 20], [32.5, 48.0, 53.0])}
    lines = table(plan, results).splitlines()
    assert lines[0] == "| method | AP50, mean ± s.d. | each seed | gap closed | car | h |"
    assert "| A + B | 53.0 ± 2.8 | 55.0 51.0 | 55% | 22.5 | 0.01 |" in lines
    assert lines[-1] == "A + B against base, seed by seed: +15.0, +7.0"


def test_a_class_that_the_test_set_does_not_show_has_no_column(tmp_path):
    plan, output = read_plan(write_plan(tmp_path)), tmp_path / "out"
    for seed in (2, 3):
        write_run(output, seed, "base", {20: (40.0, float("nan"))})
    assert (
        table(plan, collect(plan, output)).splitlines()[0]
        == "| method | AP50, mean ± s.d. | each seed | gap closed | h |"
    )


SWEEP = {"X": "noise", "POINTS": {"top": 3, "A + B": 1.5}, "LEVELS": ["base"]}


def test_a_sweep_has_means_and_spreads_in_the_order_of_its_numbers(runs, tmp_path):
    _, output = runs
    plan = read_plan(write_plan(tmp_path, SWEEP=SWEEP))
    points, levels = sweep_points(plan, collect(plan, output))
    # (55, 51), (60, 64) and (40, 44): the standard deviation of two values is their difference / sqrt(2)
    assert list(points) == [1.5, 3]
    assert points[1.5] == pytest.approx((53.0, 8**0.5)) and points[3] == pytest.approx((62.0, 8**0.5))
    assert levels == {"base": pytest.approx((42.0, 8**0.5))}
    (run_folder(output, 2, "top") / "model_final.pth").unlink()
    (run_folder(output, 3, "top") / "model_final.pth").unlink()
    assert list(sweep_points(plan, collect(plan, output))[0]) == [1.5]
    one_seed = sweep_points(plan, collect(plan, output, [3]))
    assert one_seed == ({1.5: (51.0, None)}, {"base": (44.0, None)})


def test_a_sweep_is_drawn_beside_the_curves(runs, tmp_path, monkeypatch, capsys):
    _, output = runs
    run_tool_here("ablation.py", "--plan", write_plan(tmp_path, SWEEP=SWEEP), "--output", output, "--table",
                  monkeypatch=monkeypatch)  # fmt: skip
    assert (output / "sweep.png").stat().st_size > 1000
    assert (
        capsys.readouterr().out.splitlines()[-1].endswith("table.md, results.json, curves.png, sweep.png, report.html")
    )


def test_a_sweep_is_a_line_with_spreads_and_levels_in_their_bands():
    axes = sweep_chart("t", {1: (50.0, 2.0), 3: (60.0, None)}, {"base": (40.0, 1.0)}, xlabel="x", ylabel="y").axes[0]
    line = next(x for x in axes.lines if list(x.get_xdata()) == [1, 3])
    assert list(line.get_ydata()) == [50, 60]
    spreads = axes.collections[0].get_segments()
    assert [s[:, 1].tolist() for s in spreads] == [[48, 52], [60, 60]]
    level = next(x for x in axes.lines if x.get_label() == "base")
    assert set(level.get_ydata()) == {40} and level.get_linestyle() == "--"
    band = axes.patches[0].get_bbox() if axes.patches else None
    assert (band.y0, band.y1) == (39, 41)


@pytest.mark.parametrize(
    "sweep",
    [
        "x",
        {"X": "a"},
        {"X": "a", "POINTS": {"base": "b"}},
        {"X": "a", "POINTS": {}, "Y": 1},
        {"X": "a", "POINTS": {"base": 1, "top": 1.0}},
    ],
    ids=str,
)
def test_a_wrong_sweep_is_refused(tmp_path, sweep):
    with pytest.raises(ConfigError, match="SWEEP is .*use {X: text"):
        read_plan(write_plan(tmp_path, SWEEP=sweep))


def test_runs_that_have_not_ended_are_left_out(runs):
    plan, output = runs
    (run_folder(output, 3, "A + B") / "model_final.pth").unlink()
    results = collect(plan, output)
    assert results["A + B"].seeds == [2] and results["A + B"].spread("AP50") is None
    assert table(plan, results).splitlines()[-1] == "A + B against base, seed by seed: +15.0"
    assert collect(plan, output, [3])["base"].values["AP50"] == [44.0]


def test_the_tool_writes_table_numbers_curves_and_report_of_what_is_there(runs, monkeypatch, capsys):
    plan, output = runs
    run_tool_here("ablation.py", "--plan", output.parent / "plan.yaml", "--output", output, "--table",
                  monkeypatch=monkeypatch)  # fmt: skip
    text = (output / "table.md").read_text(encoding="utf-8")
    assert text.strip() in capsys.readouterr().out and "53.0 ± 2.8" in text
    assert json.loads((output / "results.json").read_text())["top"]["AP50"] == [60.0, 64.0]
    assert (output / "curves.png").stat().st_size > 1000
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "seed2/a_b" in page and "seed3/burn_in" in page


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"SEED": [1]}, "'SEED'"),
        ({"CELLS": None}, "CELLS is missing"),
        ({"SEEDS": []}, "SEEDS is missing"),
        ({"BASELINE": "bass"}, "BASELINE names 'bass'"),
        ({"PAIRS": [["A + B", "C"]]}, "PAIRS names 'C'"),
        ({"CELLS": {"base": "b.yaml", "A + B": "absent.yaml", "top": "a.yaml"}}, r"absent\.yaml"),
        ({"CELLS": {"base": {"OPTS": []}}}, "'base'"),
        ({"BURN_IN": ["b.yaml"]}, "'BURN_IN'"),
        ({"CELLS": {**CELLS, "A, B": "a.yaml"}}, "share a folder"),
    ],
)
def test_plans_that_cannot_work_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_plan(write_plan(tmp_path, **changes))


def test_what_the_tool_is_asked_for_must_exist(runs, monkeypatch, tmp_path):
    ask = ["ablation.py", "--plan", tmp_path / "plan.yaml", "--output", tmp_path / "nothing"]
    assert "'C'" in refusal_here(*ask, "--cells", "C", monkeypatch=monkeypatch)
    assert "no run below" in refusal_here(*ask, "--table", monkeypatch=monkeypatch)
    assert "absent.yaml" in refusal_here("ablation.py", "--plan", "absent.yaml", monkeypatch=monkeypatch)


def test_folder_names_are_plain():
    assert folder_name("MIC + SADA, delta 0.6") == "mic_sada_delta_0.6"


def test_shipped_plans_can_be_read():
    for path in config_folder().glob("*/ablation*.yaml"):
        assert read_plan(path).cells


def test_pairs_after_options_that_take_several_values_go_to_every_training():
    words = ["--seeds", "2", "3", "SOLVER.AMP.ENABLED", "False"]
    args = read_arguments("ablation", words, "ablation")
    assert (args.seeds, args.cells, args.opts) == ([2, 3], None, words[3:])
    args = read_arguments("ablation", ["--cells", "A + B", "--jobs", "2", *words[3:]], "ablation")
    assert (args.seeds, args.cells, args.jobs, args.opts) == (None, ["A + B"], 2, words[3:])


@pytest.mark.parametrize("words", (["--seeds", "two"], ["SOLVER.MAX_ITER"]))
def test_a_seed_that_is_no_number_and_a_key_without_a_value_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        read_arguments("ablation", words, "ablation")
    assert words[-1] in capsys.readouterr().err
