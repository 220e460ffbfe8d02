"""mic-det select and judge-criteria: from run folders to a choice, with the criteria that a library call gives."""

import json
import shutil

import pytest
import torch

from helpers.data import forget_registered_sets, load, write_config
from helpers.faults import check_refused
from helpers.resume import MIC, make_trainer, run_config, write_mixed_domains
from mic_det.cli import program
from mic_det.cli.judge_criteria import score
from mic_det.config.roles import LABELS, MASK, SELF_TRAINING
from mic_det.engine.setup import get_mic_cfg
from mic_det.engine.trainer import MICTrainer
from mic_det.evaluation.label_free import maps
from mic_det.evaluation.label_free.criteria import CRITERIA
from mic_det.evaluation.label_free.judging import judge
from mic_det.evaluation.label_free.measure import dicts_of, measure, read_source, read_unlabelled
from mic_det.evaluation.label_free.ranking import COMBINATION, combined
from mic_det.experiments.label_free_tables import read_table
from mic_det.inference.predictor import load_model

pytestmark = pytest.mark.slow

KEYS = {
    **MIC, "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.02, "SEED": 2, "SOLVER__BASE_LR": 0.03,
    "SOLVER__CHECKPOINT_PERIOD": 4, "SOLVER__ACCUMULATE_STEPS": 1,
}  # fmt: skip


def run(*argv):
    with forget_registered_sets():
        return program.run(argv[0], list(map(str, argv[1:])), f"mic-det {argv[0]}")


def train(root, name, **keys):
    trainer = make_trainer(root, root / name, **{**KEYS, **keys})
    trainer.train()
    write_config(root / name / "config.yaml", run_config(root, root / name, **{**KEYS, **keys}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with forget_registered_sets():
        write_mixed_domains(root)
        train(root, "start", DATASETS__TARGET=[], MODEL__MIC={"CONSISTENCY": {"WEIGHT": 0.0}})
        for name, rate in (("slow", 0.01), ("fast", 0.03)):
            weights = str(root / "start" / "model_final.pth")
            train(root, name, MODEL__WEIGHTS=weights, SOLVER__BASE_LR=rate)
    return root


@pytest.fixture(scope="module")
def chosen(runs):
    out = runs / "select.json"
    sizes = ["--max-images", 5, "--source-images", 4]
    assert not run(
        "select", runs / "slow", runs / "fast", *sizes, "--criteria", "all", "--judge", "day", "--output", out
    )
    return json.loads(out.read_text())


def test_all_checkpoints_and_their_common_start_are_ranked_by_the_combination(runs, chosen):
    found = chosen["checkpoints"]
    files = {str(runs / r / f) for r in ("slow", "fast") for f in ("model_0000003.pth", "model_final.pth")}
    assert {c["file"] for c in found} == files | {str(runs / "start" / "model_final.pth")} and len(found) == 5
    assert [(c["start"], c["runs"]) for c in found if c["start"]] == [(True, ["slow", "fast"])]
    assert {c["step"] for c in found if not c["start"]} == {4, 8}
    scores = [c["score"] for c in found]
    assert scores == sorted(scores, reverse=True) and chosen["best"] == found[0]["file"]
    assert 0 <= chosen["sure"] <= 1 and chosen["num_images"] == 5 and chosen["images"] == "fog"


def test_a_checkpoint_that_has_lost_a_class_is_the_last_choice(runs, tmp_path, capsys):
    folder, name = tmp_path / "run", "detector.roi_heads.box_predictor.cls_score.bias"
    shutil.copytree(runs / "slow", folder)
    for file, bias in ((runs / "start" / "model_final.pth", 2), (folder / "model_final.pth", -100)):
        content = torch.load(file, weights_only=False)
        for part in ("student", "teacher"):
            content["model"][name.replace("detector", part)][1] = bias
        torch.save(content, tmp_path / "start.pth" if bias == 2 else file)
    out, start = tmp_path / "select.json", tmp_path / "start.pth"
    assert not run("select", folder, "--start", start, "--max-images", 5, "--output", out)
    found = json.loads(out.read_text())["checkpoints"]
    last = next(c for c in found if c["step"] == 8)
    assert (last["file"], last["score"], last["lost_classes"]) == (str(folder / "model_final.pth"), 0, ["green"])
    assert found[0]["start"], "the other one has lost it, too"
    assert next(c for c in found if c["start"])["lost_classes"] == []
    text = capsys.readouterr().out
    assert "run, step 8: green" in text and "less than 25% of those of the start" in text
    assert "run, step 8 (green)" in read_table(out).sentences[2]
    assert score(last, {"entropy": 1.0}) == 0, "judge-criteria knows it, whatever the weights"

    # a run that begins with the checkpoint that has lost it
    after = tmp_path / "after"
    shutil.copytree(folder, after)
    for config, weights in ((folder / "config.yaml", start), (after / "config.yaml", folder / "model_final.pth")):
        text = config.read_text()
        config.write_text(text.replace(str(runs / "start" / "model_final.pth"), str(weights)))
        assert config.read_text() != text
    assert not run("select", folder, after, "--max-images", 5, "--output", out, "--overwrite")
    found = json.loads(out.read_text())["checkpoints"]
    same = [c for c in found if c["file"] == str(folder / "model_final.pth")]
    assert [c["lost_classes"] for c in same] == [["green"]] * 2 and {c["start"] for c in same} == {True, False}


def test_criteria_and_ap50_are_those_of_the_library(runs, chosen):
    entry = next(c for c in chosen["checkpoints"] if c["run"] == "fast" and c["step"] == 4)
    with forget_registered_sets():
        cfg = get_mic_cfg(str(runs / "fast" / "config.yaml"), ["DATASETS.TEST", ("day",)])
        model = load_model(cfg, entry["file"])
        values = measure(model, read_unlabelled(cfg, dicts_of("fog", 5)), 3, read_source(cfg, 4)).values
        assert set(values) == set(CRITERIA) == set(entry["criteria"])
        assert {k: v if v == v else None for k, v in values.items()} == entry["criteria"]
        assert combined(values) == entry["score"]
        results = MICTrainer.test(cfg, model)["bbox"]
    assert results["AP50"] == pytest.approx(entry["AP50"])
    assert results["AP50-red"] == pytest.approx(entry["AP50 by class"]["red"])


def test_the_table_is_that_of_judge_and_needs_labels(runs, chosen, tmp_path, capsys):
    run("judge-criteria", runs / "select.json", "--output", tmp_path / "table.json")
    shown = capsys.readouterr().out
    table = json.loads((tmp_path / "table.json").read_text())[str(runs / "select.json")]
    expected = judge(chosen["checkpoints"], lambda c: c["score"])
    assert table["combination"] == pytest.approx(expected, nan_ok=True)
    defined = {k for c in chosen["checkpoints"] for k, v in c["criteria"].items() if v is not None}
    assert set(table) == {"combination", *defined} and all(name in shown for name in table)
    # lower is better
    turned = judge(chosen["checkpoints"], lambda c: -c["criteria"]["count_distance"])
    assert table["count_distance"] == pytest.approx(turned, nan_ok=True)
    (tmp_path / "blind.json").write_text(
        json.dumps(
            {**chosen, "checkpoints": [{k: v for k, v in c.items() if k != "AP50"} for c in chosen["checkpoints"]]}
        )
    )
    check_refused("tools/select_checkpoint.py", [tmp_path], ["config.yaml", "OUTPUT_DIR"])
    with pytest.raises(SystemExit, match="no AP50 to judge with"):
        run("judge-criteria", tmp_path / "blind.json")
    with pytest.raises(SystemExit, match="is no file of"):
        (tmp_path / "other.json").write_text("{}")
        run("judge-criteria", tmp_path / "other.json")


def test_a_folder_of_images_an_absent_start_and_no_source(runs, tmp_path, capsys):
    run("select", runs / "fast", "--images", runs / "fog", "--max-images", 3, "--source-images", 0, "--output",
        tmp_path / "a.json", "MODEL.WEIGHTS", tmp_path / "gone.pth")  # fmt: skip
    found = json.loads((tmp_path / "a.json").read_text())
    assert [c["start"] for c in found["checkpoints"]] == [False, False] and found["above_start"] is None
    assert set(found["checkpoints"][0]["criteria"]) == set(COMBINATION) - {"count_distance"}
    text = capsys.readouterr().out
    assert f"Ship {found['best']}" in text and "start" not in text


def test_each_run_is_measured_on_the_sets_of_its_own_config(runs, tmp_path):
    """Two runs whose sets of one name differ: the set that was registered last must not serve both."""
    alone, both = tmp_path / "alone.json", tmp_path / "both.json"
    other = tmp_path / "other"
    shutil.copytree(runs / "slow", other)
    text = (other / "config.yaml").read_text()
    (tmp_path / "few").mkdir()
    for i in range(2):
        shutil.copy(runs / "fog" / f"{i}.png", tmp_path / "few")
    (other / "config.yaml").write_text(text.replace(str(runs / "fog"), str(tmp_path / "few")))
    sizes = ["--source-images", 0, "--start", runs / "start" / "model_final.pth"]
    run("select", runs / "fast", *sizes, "--output", alone)
    run("select", runs / "fast", other, *sizes, "--output", both)
    found = [{c["file"]: c["criteria"] for c in json.loads(f.read_text())["checkpoints"]} for f in (alone, both)]
    assert len(found[0]) == 3 and all(found[1][file] == values for file, values in found[0].items())


def test_a_start_that_looks_better_than_all_is_warned_of(runs, tmp_path, capsys):
    """Adapted checkpoints without a single box: the start is the best."""
    folder = tmp_path / "blind"
    shutil.copytree(runs / "slow", folder)
    for file in folder.glob("model_*.pth"):
        content = torch.load(file, weights_only=True)
        for name, x in content["model"].items():
            if name.endswith("box_predictor.cls_score.bias"):
                x[-1] += 100.0
        torch.save(content, file)
    run("select", folder, "--max-images", 3, "--source-images", 0, "--output", tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["start_is_best"] and found["checkpoints"][0]["start"] and found["above_start"] is None
    assert "Warning: the start looks better" in capsys.readouterr().out
    assert {c["score"] for c in found["checkpoints"][1:]} == {0.0}


def test_runs_that_were_trained_in_different_ways_are_not_compared_silently(runs, tmp_path, capsys):
    """By the configs of the folders: the mask's share or the loss's weight may be 0."""
    bare = tmp_path / "bare"
    shutil.copytree(runs / "slow", bare)
    mask = {**KEYS["MODEL__MIC__MASK"], "RATIO": 0.0}
    keys = {**KEYS, "MODEL__MIC__MASK": mask, "MODEL__WEIGHTS": str(runs / "start" / "model_final.pth")}
    write_config(bare / "config.yaml", run_config(runs, bare, **keys))
    ways = {"slow": MASK, "fast": MASK, "bare": SELF_TRAINING, "start": LABELS}
    sizes = ["--images", "fog", "--max-images", 2, "--source-images", 0, "--overwrite", "--output", tmp_path / "a.json"]
    for folders, words in (
        ([runs / "fast", runs / "slow"], None),
        ([runs / "start", bare, runs / "slow"], f"{MASK} (slow), {SELF_TRAINING} (bare), {LABELS} (start). The score"),
    ):
        run("select", *folders, *sizes)
        found = json.loads((tmp_path / "a.json").read_text())["checkpoints"]
        known = {c["run"]: c["training"] for c in found if not c["start"]}
        assert known == {f.name: ways[f.name] for f in folders}
        text = capsys.readouterr().out
        assert ("trained in different ways" in text) == bool(words) and (words or "") in text


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--judge", "nowhere"], "--judge nowhere is neither registered"),
        (["--images", "nowhere"], "--images nowhere is neither"),
        (["--start", "nowhere.pth"], "--start nowhere.pth"),
        (["--judge", "fog"], "no labels to judge with"),
    ],
)
def test_wrong_arguments_end_in_one_line(runs, tmp_path, argv, words):
    with pytest.raises(SystemExit) as caught:
        run("select", runs / "slow", *argv, "--max-images", 1, "--source-images", 0, "--output", tmp_path / "a.json")
    assert words in str(caught.value.code) and "\n" not in str(caught.value.code)
    assert not (tmp_path / "a.json").exists()


def test_a_model_of_pixels_alone_is_ranked_but_not_with_detectors_or_by_ap(runs, tmp_path):
    keys = {"MODEL__META_ARCHITECTURE": "SemanticSegmentor", "DATASETS__TRAIN": [], "MODEL__WEIGHTS": ""}
    keys["MODEL__SEM_SEG_HEAD"] = {"NUM_CLASSES": 4, "CONVS_DIM": 8, "NORM": ""}
    folder = tmp_path / "pixels"
    folder.mkdir()
    with forget_registered_sets():
        cfg = load(folder, run_config(runs, folder, **keys))
        torch.manual_seed(0)
        torch.save({"model": MICTrainer.build_model(cfg).state_dict()}, folder / "model_final.pth")
    output = tmp_path / "a.json"
    run("select", folder, "--images", runs / "fog", "--max-images", 2, "--criteria", "all", "--output", output)
    (found,) = json.loads(output.read_text())["checkpoints"]
    assert set(found["criteria"]) == set(maps.ROWS) - {"student_agreement"}
    used = [found["criteria"][n] for n in ("flip_agreement", "mask_agreement", "information")]
    assert found["score"] == pytest.approx(sum(used) / 3)
    with pytest.raises(SystemExit, match="no AP50: leave out --judge"):
        run("select", folder, "--images", runs / "fog", "--judge", "day", "--output", tmp_path / "b.json")
    with pytest.raises(SystemExit, match="cannot be compared"):
        run("select", folder, runs / "slow", "--output", tmp_path / "b.json")
