"""``mic-det adapt`` without source images, with labelled target images, and with another detector's boxes."""

import json

import pytest
import torch
import yaml

from helpers.adapt import adapt
from helpers.data import CLASSES, forget_registered_sets, load, tiny_config, write_two_domains
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.cli.program import read_arguments
from mic_det.engine.trainer import MICTrainer

pytestmark = pytest.mark.slow
ORDER = ("blue", "red", "green")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Target images, a part of their labels, another detector's boxes, and a model whose source images are gone."""
    root = tmp_path_factory.mktemp("less")
    write_two_domains(root)
    torch.manual_seed(0)
    with forget_registered_sets():
        cfg = load(root, tiny_config(root, DATASETS__TEST=[], DATASETS__CUSTOM={"gone": {"IMAGES": "gone"}},
                                     DATASETS__TRAIN=["gone"]))  # fmt: skip
        model = MICTrainer.build_model(cfg)
        for name, classes in (("model", ORDER), ("nameless", None)):
            MICCheckpointer(model, str(root), class_names=classes).save(name)
    content = json.loads((root / "target/train.json").read_text())
    content["annotations"] = [{**a, "score": 0.9} for a in content["annotations"]]
    (root / "found.json").write_text(json.dumps(content))
    for file in (root / "target").glob("*.json"):
        file.rename(root / f"target_{file.name}")
    few = json.loads((root / "target_train.json").read_text())
    kept = {x["id"] for x in few["images"][:3]}
    few["images"] = [{**x, "file_name": f"images/{x['file_name']}"} for x in few["images"] if x["id"] in kept]
    few["annotations"] = [a for a in few["annotations"] if a["image_id"] in kept]
    (root / "target" / "few.json").write_text(json.dumps(few))
    val = json.loads((root / "target_val.json").read_text())
    (root / "test").mkdir()
    for x in val["images"]:
        (root / "target/images" / x["file_name"]).rename(root / "test" / x["file_name"])
    (root / "test/labels.json").write_text(json.dumps(val))
    return root


def test_the_only_positional_argument_is_the_target():
    args = read_arguments("adapt", ["fog", "--source-checkpoint", "run", "--output", "o", "SEED", "3"], "mic-det adapt")
    assert (args.source, args.target, args.opts) == ("run", "fog", ["SEED", "3"])
    with pytest.raises(SystemExit):
        read_arguments("adapt", ["day", "--output", "o"], "mic-det adapt")


def test_from_a_checkpoint_with_labels_and_boxes(folder, tmp_path, capsys):
    out = tmp_path / "out"
    call = [
        folder / "target/images", "--source-checkpoint", folder / "model.pth", "--config-file", folder / "config.yaml",
        "--target-labels", folder / "target/few.json", "--labels-from", folder / "found.json", "--output", out,
        "--test", folder / "test", "--steps", 2,
    ]  # fmt: skip
    assert adapt(*call) == 0
    printed = capsys.readouterr().out
    assert "without its images" in printed and "3 images of the target" in printed
    config = yaml.safe_load((out / "adapt.yaml").read_text())
    sets, mic = config["DATASETS"], config["MODEL"]["MIC"]
    assert sets["TRAIN"] == [] and sets["CLASS_NAMES"] == list(ORDER)
    assert mic["LABELLER"]["JSON"] == str(folder / "found.json") and mic["TEACHER"]["ALPHA"] == 0.999
    log = (out / "adapt/log.txt").read_text()
    assert "5 images of DATASETS.TARGET are used without labels" in log, "8 images, of which 3 are labelled"
    assert "labeller found.json" in log
    rows = [json.loads(x) for x in (out / "adapt/metrics.json").read_text().splitlines()]
    losses = {k.split("/")[0] for row in rows for k in row if "loss" in k}
    assert {"source", "masked"} <= losses
    written = torch.load(out / "adapt/model_final.pth", weights_only=True)
    assert tuple(written["class_names"]) == ORDER
    found = json.loads((out / "predictions/predictions.json").read_text())
    assert sorted(c["name"] for c in found["categories"]) == sorted(CLASSES)
    assert (out / "report.html").is_file() and (out / "before_after.jpg").is_file() and (out / "model.pth").is_file()
    # the same call trains nothing more, and another one is refused
    assert adapt(*call) == 0
    other = [x for x in call if x not in ("--labels-from", folder / "found.json")]
    assert "--labels-from was" in str(adapt(*other))


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"--source-checkpoint": "nameless.pth"}, ["does not name its classes", "DATASETS.CLASS_NAMES"]),
        ({"--source-checkpoint": "target_val.json"}, ["neither a folder of a run"]),
        ({"--labels-from": "nowhere.json"}, ["--labels-from", "nowhere.json"]),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(folder, tmp_path, changes, parts):
    call = {
        "--source-checkpoint": "model.pth", "--config-file": "config.yaml", "--labels-from": "found.json", **changes,
    }  # fmt: skip
    argv = [x for k, v in call.items() for x in (k, folder / v)]
    text = str(adapt(folder / "target/images", *argv, "--output", tmp_path / "out", "--dry-run"))
    assert all(p in text for p in parts), text
