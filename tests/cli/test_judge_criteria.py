"""judge-criteria: combinations that are chosen on one file, by brute force, and judged on others."""

import itertools
import json
import math

import pytest

from mic_det.cli import program
from mic_det.cli.judge_criteria import score, search
from mic_det.cli.select_checkpoint import FORMAT
from mic_det.config.roles import LABELS, MASK, SELF_TRAINING
from mic_det.evaluation.label_free.judging import judge
from mic_det.evaluation.label_free.ranking import combined

STEPS = {1: (60.0, 0.5, 0.6, 0.2), 2: (70.0, 0.6, 0.4, 0.1), 3: (20.0, 0.9, 0.3, 3.0)}  # AP50, flip, mask, counts


def checkpoints():
    names = ("flip_agreement", "mask_agreement", "count_distance")
    start = {"run": "s", "file": "s", "step": 0, "start": True, "runs": ["a"], "AP50": 50.0, "score": 0.5}
    found = [{**start, "criteria": dict(zip(names, (0.4, 0.45, 0.3)))}]
    for step, (ap50, *values) in STEPS.items():
        own = {"run": "a", "file": str(step), "step": step, "start": False, "AP50": ap50, "score": values[0]}
        found.append({**own, "criteria": {**dict(zip(names, values)), "entropy": None if step == 3 else 0.5}})
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"format": FORMAT, "checkpoints": checkpoints()}))
    return path


def run(*argv):
    return program.run("judge-criteria", list(map(str, argv)), "mic-det judge-criteria")


def test_search_finds_what_misses_no_collapse_and_has_least_regret():
    found = search([checkpoints()])
    # the start lacks entropy; flip alone takes the collapsed one, mask alone the worse of the two others
    assert {x[0] for x in found} == {
        c for n in (1, 2, 3) for c in itertools.combinations(("flip_agreement", "mask_agreement", "count_distance"), n)
    }
    by_name = {x[0]: x[1:] for x in found}
    assert by_name[("flip_agreement",)][::2] == (1, 50.0) and by_name[("mask_agreement",)][::2] == (0, 10.0)
    assert by_name[("count_distance",)] == pytest.approx((0, math.nan, 0, 1), nan_ok=True)
    assert found[0][1:] == pytest.approx((0, math.nan, 0, 1), nan_ok=True) and found[-1][1] == 1


def test_search_prefers_combinations_that_favour_no_way_of_training():
    """Two runs of about equal AP50: mask agreement prefers one in all pairs, flip agreement where AP50 does."""
    masked = [(1, True, 60.0, 0.5, 0.6), (2, True, 61.0, 0.7, 0.7)]
    found = [{"run": "s", "file": "s", "step": 0, "start": True, "runs": ["x", "y"], "AP50": 50.0}]
    found[0]["criteria"] = {"flip_agreement": 0.3, "mask_agreement": 0.2}
    for step, is_masked, ap50, flip, mask in [*masked, (3, False, 60.5, 0.6, 0.3), (4, False, 61.5, 0.8, 0.4)]:
        own = {"run": "x" if is_masked else "y", "file": str(step), "step": step, "start": False, "AP50": ap50}
        criteria = {"flip_agreement": flip, "mask_agreement": mask}
        found.append({**own, "training": MASK if is_masked else SELF_TRAINING, "criteria": criteria})
    by_name = {x[0]: x[1:] for x in search([found])}
    assert by_name[("flip_agreement",)] == pytest.approx((0, 0, 0, 1))
    # 4 of 4 pairs by the score, 1 of 4 by AP50
    assert by_name[("mask_agreement",)][1] == 0.75
    by_mask = lambda c: c["criteria"]["mask_agreement"]  # noqa: E731
    far = [{**c, "AP50": 20.0} if c.get("training") == MASK else c for c in found]
    assert math.isnan(judge(far, by_mask)["mask_bias"]) and math.isnan(judge(found, by_mask)["self_bias"])
    without = [{**c, "training": LABELS} if c.get("training") == SELF_TRAINING else c for c in found]
    assert judge(without, by_mask)["self_bias"] == 0.75 and math.isnan(judge(without, by_mask)["mask_bias"])
    # both choose the best of each run
    assert search([found])[0][0] == ("flip_agreement",)


def test_another_combination_is_judged_in_place_of_the_files(file, tmp_path, capsys):
    weights = {"mask_agreement": 1.0, "count_distance": 2.0}
    run(file, "--combination", "mask_agreement=1,count_distance=2", "--output", tmp_path / "t.json", "--search")
    table = json.loads((tmp_path / "t.json").read_text())[str(file)]
    expected = judge(checkpoints(), lambda c: combined(c["criteria"], weights))
    assert table["combination"] == pytest.approx(expected, nan_ok=True)
    assert "missed 0, bias nan, regret 0.00, rho 1.00: count_distance" in capsys.readouterr().out
    run(file, "--output", tmp_path / "t.json")
    again = json.loads((tmp_path / "t.json").read_text())[str(file)]
    assert again["combination"]["regret"] == 50 and again["entropy"]["checkpoints"] == 3


def test_an_undefined_criterion_counts_as_bad_and_a_missing_one_not_at_all():
    c = checkpoints()
    assert score(c[3], {"entropy": 1.0, "flip_agreement": 1.0}) == pytest.approx(0.9 / 2)
    assert score(c[0], {"entropy": 1.0, "flip_agreement": 1.0}) == pytest.approx(0.4)


@pytest.mark.parametrize("text, words", [("flop=1", "there is no criterion 'flop'"), ("entropy", None)])
def test_wrong_combinations_are_refused(file, text, words, capsys):
    with pytest.raises(SystemExit) as caught:
        run(file, "--combination", text)
    assert words in str(caught.value.code) if words else "use NAME=WEIGHT" in capsys.readouterr().err
