"""``mic-det adapt``: what it is given, what it plans, the configs that it writes, and whose folder OUT is."""

import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
import yaml
from detectron2.data import DatasetCatalog

from helpers.data import CLASSES, forget_registered_sets, tiny_config, write_config, write_image, write_two_domains
from mic_det.cli import program
from mic_det.cli.adapt.configs import ADAPT, SOURCE, training_config
from mic_det.cli.adapt.configs import write_config as write_stage
from mic_det.cli.adapt.inputs import SourceModel, read_labelled, read_source, read_target
from mic_det.cli.adapt.plan import (
    ADAPT_PRESET,
    SOURCE_PRESET,
    Machine,
    Weights,
    find_weights,
    make_plan,
    recognise_backbone,
)
from mic_det.cli.adapt.state import State, check_folder
from mic_det.cli.program import read_arguments
from mic_det.config.bundled import find_config
from mic_det.data.custom_sets import load_declared
from mic_det.engine.setup import get_mic_cfg
from mic_det.errors import ConfigError, DataError

CPU = Machine(0, 2, True, "CPU")
GPU = Machine(1, 16, True, "GPU")
IMAGENET, NONE = Weights("resnet18", "torchvision://resnet18", ""), Weights("", "", "none")


def arguments(*argv):
    return read_arguments("adapt", list(map(str, argv)), "mic-det adapt")


# ------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "argv",
    [
        ["day", "fog", "--output", "o", "--classes", "car", "big bus", "SOLVER.BASE_LR", "0.1", "SEED", "3"],
        ["--output", "o", "day", "fog", "SOLVER.BASE_LR", "0.1", "SEED", "3", "--classes", "car", "big bus"],
    ],
)
def test_options_stand_anywhere_and_pairs_last(argv):
    args = arguments(*argv)
    assert (args.source, args.target, args.output) == ("day", "fog", "o")
    assert args.classes == ["car", "big bus"] and args.opts == ["SOLVER.BASE_LR", "0.1", "SEED", "3"]


@pytest.mark.parametrize(
    "more",
    [["--steps", 0], ["--frames", 1], ["--num-gpus", 0], ["SEED"], ["MODEL.WEIGHTS", "x"], ["DATASETS.TRAIN", "()"]],
)
def test_arguments_without_a_meaning_are_refused(more, capsys):
    with pytest.raises(SystemExit):
        arguments("a", "b", "--output", "o", *more)
    assert str(more[0]).split(".")[0] in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- plan


@pytest.mark.parametrize(
    "machine, size, short, long",
    [
        (CPU, (480, 360), 360, 480),
        (CPU, (360, 480), 360, 480),
        (CPU, (1280, 720), 384, 683),  # CPUs have a bound
        (CPU, (90, 60), 160, 240),  # and so has what can be seen
        (CPU, (3000, 300), 300, 750),  # panoramas
        (GPU, (1280, 720), 720, 1280),
        (GPU, (2048, 1024), 800, 1600),
    ],
)
def test_sizes_follow_the_images_within_bounds(machine, size, short, long):
    plan = make_plan(machine, IMAGENET, [size] * 3, [size], 100)
    assert (plan.short_side, plan.long_side) == (short, long)


def test_patches_grow_with_the_images():
    sides = {160: 16, 360: 16, 480: 16, 600: 24, 800: 32}
    found = {s: make_plan(GPU, IMAGENET, [(2 * s, s)], [], 9).block_size for s in sides if s >= 256}
    assert found == {s: b for s, b in sides.items() if s >= 256}


@pytest.mark.parametrize(
    "machine, weights, images, steps",
    [
        (CPU, IMAGENET, 10, (600, 350)),  # 0.6 of it, in fifties
        (CPU, IMAGENET, 400, (1000, 600)),  # 5 epochs of 2 images
        (CPU, IMAGENET, 10**5, (1500, 900)),
        (CPU, NONE, 400, (2000, 1200)),  # twice as long
        (GPU, IMAGENET, 3000, (18000, 10800)),
        (Machine(4, 16, True, "GPU x 4"), IMAGENET, 3000, (4500, 2700)),  # as many images, 8 a step
    ],
)
def test_steps_follow_the_number_of_images(machine, weights, images, steps):
    plan = make_plan(machine, weights, [(480, 360)], [(480, 360)], images)
    assert plan.steps == steps and plan.batch == 2 * max(1, machine.gpus)


def test_steps_that_are_asked_for_count_for_each_training():
    assert make_plan(CPU, NONE, [(9, 9)], [], 5, steps=7).steps == (7, 7)
    assert make_plan(CPU, NONE, [], [(9, 9)], 0, steps=7, has_source_model=True).steps == (0, 7)


def test_more_gpus_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="--num-gpus is 99"):
        Machine.found(99)


# -------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_weights_tell_their_classifier(name, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(torchvision.models.get_model(name).state_dict(), file)
    found = find_weights(str(file), "cpu")
    assert (found.name, found.file) == (name, str(file))


def test_other_weights_are_refused(tmp_path):
    torch.save({"w": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="not the weights of torchvision's resnet18"):
        recognise_backbone(str(tmp_path / "w.pth"))


def test_without_a_network_the_plan_says_what_it_costs(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # an empty cache
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    found = find_weights(None, "cpu")
    assert not found.name and not found.file
    assert all(part in found.told for part in ("none", "no network", "2 times as long", "resnet18", "--weights"))


# -------------------------------------------------------------------------------------- configs


def sets(root, **more):
    entries = {d: {"JSON": f"{root}/{d}/train.json", "IMAGES": f"{root}/{d}/images"} for d in ("source",)}
    return {"classes": 3, **entries, "target": {"IMAGES": f"{root}/target/images"}, **more}


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("weights", [IMAGENET, NONE])
@pytest.mark.parametrize("stage", [SOURCE, ADAPT])
def test_configs_are_whole_and_have_the_presets_settings(stage, weights, machine, tmp_path):
    plan = make_plan(machine, weights, [(900, 600)], [(900, 600)], 100)
    config = training_config(stage, plan, sets(tmp_path), tmp_path / "run", "", ["SOLVER.STEPS", "(5, 6)", "SEED", "9"])
    file = tmp_path / f"{stage}.yaml"
    write_stage(config, stage, file)
    text = file.read_text()
    assert "_BASE_" not in text and f"mic-det train --config-file {file}" in text
    with forget_registered_sets():
        cfg = get_mic_cfg(file)
        assert cfg.SEED == 9 and tuple(cfg.SOLVER.STEPS) == (5, 6) and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
        assert cfg.MODEL.META_ARCHITECTURE == "MIC" and tuple(cfg.DATASETS.TRAIN) == ("source",)
        assert tuple(cfg.DATASETS.TARGET) == (("target",) if stage == ADAPT else ())
        assert cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "bfloat16"
        assert cfg.SOLVER.MAX_ITER == plan.steps[stage == ADAPT] and cfg.MODEL.MIC.MASK.BLOCK_SIZE == plan.block_size
        preset = yaml.safe_load(Path(find_config({SOURCE: SOURCE_PRESET, ADAPT: ADAPT_PRESET}[stage])).read_text())
        check_below(preset["MODEL"]["MIC"], cfg.MODEL.MIC)


def check_below(expected, found):
    for key, value in expected.items():
        if isinstance(value, dict):
            check_below(value, found[key])
        elif key != "BLOCK_SIZE":
            assert found[key] == value or list(found[key]) == list(value), key


def test_boxes_of_another_labeller_have_constant_thresholds(tmp_path):
    plan = make_plan(CPU, NONE, [(900, 600)], [(900, 600)], 100)
    for labeller, adapts in (("boxes.json", "none"), ("", "class_shares")):
        config = training_config(ADAPT, plan, sets(tmp_path, labeller=labeller), tmp_path, "w.pth")
        assert config["MODEL"]["MIC"]["PSEUDO_BOXES"]["ADAPT"] == adapts


@pytest.mark.parametrize("weights, optimizer, rate", [(IMAGENET, "AdamW", 0.0002), (NONE, "SGD", 0.01)])
def test_both_trainings_have_adamw_from_imagenet_weights_and_sgd_from_scratch(weights, optimizer, rate, tmp_path):
    plan = make_plan(CPU, weights, [(900, 600)], [(900, 600)], 100)
    for stage in (SOURCE, ADAPT):
        solver = training_config(stage, plan, sets(tmp_path), tmp_path, "w.pth")["SOLVER"]
        assert (solver["OPTIMIZER"], solver["BASE_LR"]) == (optimizer, rate)


def test_the_config_of_a_source_model_is_the_base(tmp_path):
    write_two_domains(tmp_path)
    base = write_config(tmp_path / "source.yaml", tiny_config(tmp_path, MODEL__META_ARCHITECTURE="RetinaNet"))
    with forget_registered_sets():
        plan = make_plan(CPU, Weights("", "", ""), [], [(96, 64)], 0, has_source_model=True).of_model(get_mic_cfg(base))
        config = training_config(
            ADAPT, plan, sets(tmp_path, source=None), tmp_path, "w.pth", base=base, student="RetinaNet"
        )
        write_stage(config, ADAPT, tmp_path / "adapt.yaml")
        cfg = get_mic_cfg(tmp_path / "adapt.yaml")
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MIC.STUDENT) == ("MIC", "RetinaNet")
    assert tuple(cfg.DATASETS.TRAIN) == ("source_train",) and tuple(cfg.DATASETS.TARGET) == ("target",)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMS_PER_BATCH_TARGET) == (0.02, 2, 2)
    assert cfg.INPUT.MIN_SIZE_TEST == 64 and cfg.MODEL.WEIGHTS == "w.pth"
    assert cfg.SOLVER.OPTIMIZER == "SGD" and "OPTIMIZER" not in config["SOLVER"], "the source model's own"


@pytest.mark.parametrize(
    "optimizer, names, opts, rate",
    [
        ("AdamW", ["car"], [], 0.00002),  # a tenth, because no source image holds the model
        ("AdamW", ["car"], ["SOLVER.BASE_LR", "0.0001"], 0.0001),
        ("AdamW", None, [], 0.0002),
        ("SGD", ["car"], [], 0.0002),
    ],
)
def test_adamw_without_source_images_takes_small_steps(tmp_path, optimizer, names, opts, rate):
    base = tmp_path / "source.yaml"
    base.write_text(f"VERSION: 2\nSOLVER: {{OPTIMIZER: {optimizer}, BASE_LR: 0.0002}}\n")
    plan = make_plan(CPU, NONE, [], [(96, 64)], 0, has_source_model=True).of_model(get_mic_cfg(base))
    given = sets(tmp_path, source=None, **({"class_names": names} if names else {}))
    config = training_config(ADAPT, plan, given, tmp_path, "w.pth", opts, base=str(base), student="RetinaNet")
    assert config["SOLVER"].get("BASE_LR", 0.0002) == rate


# --------------------------------------------------------------------------------------- inputs


@pytest.fixture
def domains(tmp_path):
    write_two_domains(tmp_path)
    for domain in ("source", "target"):
        (tmp_path / domain / "val.json").rename(tmp_path / f"{domain}_val.json")
    return tmp_path


def test_a_labelled_folder_is_read_as_it_is(domains):
    args = arguments(domains / "source", domains / "target/images", "--output", domains / "out")
    source = read_source(args, domains / "out")
    assert source.json == str(domains / "source/train.json") and source.classes == list(CLASSES)
    assert (len(source.files), source.num_boxes, set(source.sizes)) == (8, 16, {(96, 64)})
    target = read_target(args, domains / "out", source)
    assert len(target.files) == 12 and set(target.sizes) == {(96, 64)}
    assert not (domains / "out").exists(), "nothing had to be made"


def test_chosen_classes_make_a_file_of_their_own(domains):
    content = json.loads((domains / "source/train.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    expected = [names[a["category_id"]] for a in content["annotations"] if names[a["category_id"]] != "green"]
    found = read_labelled(domains / "source", "train", "SOURCE", domains / "out/source.json", ["blue", "red"])
    assert found.classes == ["blue", "red"] and found.num_boxes == len(expected)
    assert not Path(found.json).exists(), "a call that is refused writes nothing"
    found.write()
    with forget_registered_sets():
        dicts = load_declared("x", found.json, found.images)
    assert [["blue", "red"][a["category_id"]] for d in dicts for a in d["annotations"]] == expected
    with pytest.raises(DataError, match="--classes names cat, but the classes of SOURCE are red, green, blue"):
        read_labelled(domains / "source", "train", "SOURCE", domains / "out/source.json", ["cat"])


def test_test_images_may_lack_a_chosen_class_and_pascal_voc_one_of_the_model(domains):
    found = read_labelled(domains / "source", "test", "--test", domains / "x.json", ["red", "cat"])
    assert found.classes == ["red", "cat"] and 0 < found.num_boxes < 16
    pytest.importorskip("supervision")
    write_image(domains / "voc/a.png", np.zeros((20, 30, 3), np.uint8))
    (domains / "voc/a.xml").write_text(
        "<annotation><object><name>green</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>11</ymax>"
        "</bndbox></object></annotation>"
    )
    found = read_labelled(domains / "voc", "test", "--test", domains / "x.json", None, CLASSES)
    assert sorted(found.classes) == sorted(CLASSES)
    found.write()
    with forget_registered_sets():
        (d,) = load_declared("x", found.json, found.images)
    (a,) = d["annotations"]
    assert found.classes[a["category_id"]] == "green" and a["bbox"] == [1, 2, 8, 9]


def test_a_class_above_the_others_is_left_out(domains):
    content = json.loads((domains / "source/train.json").read_text())
    for c in content["categories"]:
        c["id"], c["supercategory"] = c["id"] + 1, "things"
    for a in content["annotations"]:
        a["category_id"] += 1
    content["categories"].insert(0, {"id": 1, "name": "things", "supercategory": "none"})
    (domains / "source/train.json").write_text(json.dumps(content))
    found = read_labelled(domains / "source", "train", "SOURCE", domains / "out/source.json")
    assert found.classes == list(CLASSES) and found.num_boxes == 16 and "things" in found.notes[0]


def test_images_of_the_source_are_no_target(domains):
    args = arguments(domains / "source", domains, "--output", domains / "out")
    with pytest.raises(DataError, match="8 images are in SOURCE and in TARGET"):
        read_target(args, domains / "out", read_source(args, domains / "out"))


def test_runs_and_weights_are_source_models(domains):
    run = domains / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    (run / "model_0000001.pth").touch()
    args = arguments(run, domains / "target/images", "--output", "o")
    with pytest.raises(DataError, match="without model_final.pth"):
        read_source(args, domains)
    (run / "model_final.pth").touch()
    assert read_source(args, domains) == SourceModel(str(run / "config.yaml"), str(run / "model_final.pth"))
    args.source = str(run / "model_final.pth")
    with pytest.raises(ConfigError, match="--config-file"):
        read_source(args, domains)
    args.config_file = "minicity/source_only.yaml"
    assert read_source(args, domains).config_file == os.path.abspath(find_config("minicity/source_only.yaml"))


def test_of_a_video_evenly_spread_frames_are_taken(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "drive.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for i in range(30):
        writer.write(np.full((48, 64, 3), 8 * i, np.uint8))
    writer.release()
    args = arguments("x", tmp_path / "drive.mp4", "--output", "o", "--frames", 4)
    target = read_target(args, tmp_path / "out", None)
    assert [Path(f).name for f in target.files] == [f"frame_{i:06d}.jpg" for i in (0, 10, 19, 29)]
    for file, i in zip(target.files, (0, 10, 19, 29)):
        assert abs(cv2.imread(str(file)).mean() - 8 * i) < 6
    args.frames = 3
    assert [Path(f).name for f in read_target(args, tmp_path / "out", None).files] == [
        f"frame_{i:06d}.jpg" for i in (0, 14, 29)
    ], "frames of another number are not mixed in"
    args.frames = 4
    before = [os.stat(f).st_mtime_ns for f in target.files]
    assert [os.stat(f).st_mtime_ns for f in read_target(args, tmp_path / "out", None).files] == before


@pytest.mark.parametrize("name, message", [("gone", "does not exist"), ("a.txt", "neither"), ("empty", "no images")])
def test_targets_that_cannot_be_used_are_named(tmp_path, name, message):
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        read_target(arguments("x", tmp_path / name, "--output", "o"), tmp_path, None)


# ---------------------------------------------------------------------------------------- state


def test_the_folder_of_another_call_is_refused_and_what_differs_named(tmp_path):
    begun = [tmp_path / "out/source"]
    state = State(tmp_path / "out", {"SOURCE": "day", "--test": ""}, begun)
    assert not state.done and not (tmp_path / "out").exists(), "nothing is written before something is done"
    state.finish("check")
    check_folder(tmp_path / "out")
    assert State(tmp_path / "out", {"SOURCE": "day", "--test": ""}, begun).done == ["check"]
    assert State(tmp_path / "out", {"SOURCE": "night", "--test": ""}, begun).done == [], "nothing was trained: free"
    (tmp_path / "out/source").mkdir()
    assert State(tmp_path / "out", {"SOURCE": "day", "--test": ""}, begun).done == ["check"]
    with pytest.raises(ConfigError, match="SOURCE was day, and is night now"):
        State(tmp_path / "out", {"SOURCE": "night", "--test": ""}, begun)
    with pytest.raises(ConfigError, match="--test was not given, and is x now"):
        State(tmp_path / "out", {"SOURCE": "day", "--test": "x"}, begun)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write .*adapt.json"):
        State(tmp_path / "file/out", {}).save()


def run(*argv):
    """The command in this process; what it ends with: None where all is well."""
    with forget_registered_sets():
        try:
            return program.run("adapt", list(map(str, argv)), "mic-det adapt")
        except SystemExit as e:
            return e.code


def test_a_call_that_the_check_refused_may_be_repeated_in_the_same_folder(domains, tmp_path, monkeypatch):
    """Labels that are put right make another call of it; nothing was trained by then."""
    monkeypatch.setattr("mic_det.cli.adapt.find_weights", lambda *_: NONE)
    monkeypatch.setattr("mic_det.cli.adapt.Job.minutes", lambda job: (_ for _ in ()).throw(ConfigError("far enough")))
    call = [domains / "source", domains / "target/images", "--output", tmp_path / "out"]
    broken = next((domains / "source").rglob("train_*.*"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    assert "problems in the images and labels: 1." in run(*call)
    broken.write_bytes(whole)
    labels = domains / "source/train.json"
    labels.write_text(labels.read_text() + "\n")
    assert run(*call) == "error: far enough"
    assert run(*call, "--steps", 3) == "error: far enough"


def test_a_refused_call_leaves_the_labels_of_the_other_one_alone(domains, tmp_path, monkeypatch):
    monkeypatch.setattr("mic_det.cli.adapt.find_weights", lambda *_: NONE)
    out = tmp_path / "out"
    call = [domains / "source", domains / "target/images", "--output", out, "--steps", 3]
    monkeypatch.setattr("mic_det.cli.adapt.Job.minutes", lambda job: (_ for _ in ()).throw(ConfigError("far enough")))
    assert run(*call, "--classes", "red") == "error: far enough"
    (out / "source").mkdir()
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    assert {f.name for f in before} >= {"source.json", "adapt.json", "source.yaml", "adapt.yaml"}
    assert "--classes was red, and is blue now" in run(*call, "--classes", "blue")
    assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file()} == before


# ------------------------------------------------------------------------- images that are left out


def stop_after_check(monkeypatch):
    """Calls end where the first training begins. Returns the jobs of the calls that reached it."""
    jobs = []

    def train(job, stage):
        jobs.append(job)
        raise ConfigError("far enough")

    monkeypatch.setattr("mic_det.cli.adapt.find_weights", lambda *_: NONE)
    monkeypatch.setattr("mic_det.cli.adapt.Job.minutes", lambda job: 1)
    monkeypatch.setattr("mic_det.cli.adapt.Job.train", train)
    return jobs


def target_files(config):
    """Names of the images that a config's target set has, as a training reads them."""
    with forget_registered_sets():
        cfg = get_mic_cfg(config)
        return sorted(Path(x["file_name"]).name for x in DatasetCatalog.get(cfg.DATASETS.TARGET[0]))


def spoil(file, kind):
    if kind == "16 bits":
        cv2.imwrite(str(file), np.full((64, 96), 40000, np.uint16))
    else:
        file.write_bytes(file.read_bytes()[:300])


def test_unusable_and_test_images_are_left_out_of_the_target_and_named(domains, tmp_path, monkeypatch, capsys):
    jobs = stop_after_check(monkeypatch)
    images = domains / "target/images"
    spoil(images / "train_1.png", "16 bits")
    spoil(images / "train_5.png", "cut")
    (images / "copy of val_2.png").write_bytes((images / "val_2.png").read_bytes())
    out = tmp_path / "out"
    call = [domains / "source", images, "--test", domains / "target_val.json", "--output", out, "--steps", 3]
    assert run(*call) == "error: far enough"
    text = capsys.readouterr().out
    assert "warning: 2 of 13 images of TARGET cannot be used" in text and "warning: 5 of 13 images of TARGET" in text
    assert f"{images / 'train_1.png'} has pixels that are not of 8 bits" in text
    assert f"{images / 'train_5.png'} cannot be read" in text
    assert f"{images / 'copy of val_2.png'} (equals {images / 'val_2.png'})" in text
    plan = " ".join(text.split())  # lines are broken where the path is long
    assert "6 images" in plan and "7 left out" in plan and "problem:" not in plan
    (row,) = re.findall(r"^TARGET .*?(?=^TEST )", text, re.MULTILINE | re.DOTALL)
    assert "note:" not in row, "the user made no list of the target"
    kept = [f"train_{i}.png" for i in (0, 2, 3, 4, 6, 7)]
    assert target_files(out / "adapt.yaml") == kept
    assert [Path(f).name for f in jobs[0].target.files] == kept, "pictures are of these"

    (out / "source").mkdir()
    (out / "adapt.yaml").unlink()
    assert run(*call) == "error: far enough"
    assert [Path(f).name for f in jobs[1].target.files] == kept and target_files(out / "adapt.yaml") == kept
    assert "warning" not in capsys.readouterr().out, "the check is not repeated"


def test_images_that_were_repaired_are_trained_on(domains, tmp_path, monkeypatch):
    stop_after_check(monkeypatch)
    image = domains / "target/images/train_1.png"
    whole = image.read_bytes()
    spoil(image, "cut")
    call = [domains / "source", domains / "target/images", "--output", tmp_path / "out"]
    assert run(*call) == "error: far enough"
    assert "train_1.png" not in target_files(tmp_path / "out/adapt.yaml")
    image.write_bytes(whole)
    assert run(*call) == "error: far enough"
    assert len(target_files(tmp_path / "out/adapt.yaml")) == 12
    assert run(*call) == "error: far enough"
    assert len(target_files(tmp_path / "out/adapt.yaml")) == 12


def test_a_target_with_many_unusable_images_is_refused_and_each_is_named(domains, tmp_path, monkeypatch, capsys):
    stop_after_check(monkeypatch)
    for i in (1, 5, 6):  # of 12: more than a tenth
        spoil(domains / f"target/images/train_{i}.png", "16 bits")
    call = [domains / "source", domains / "target/images", "--output", tmp_path / "out"]
    assert run(*call) == "error: problems in the images and labels: 3. Correct or remove what is listed above."
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("problem:")]
    assert len(lines) == 3 and all(f"train_{i}.png has pixels" in x for i, x in zip((1, 5, 6), lines))


def test_a_target_of_test_images_alone_is_refused(domains, tmp_path, monkeypatch):
    stop_after_check(monkeypatch)
    for image in (domains / "target/images").glob("train_*"):
        image.unlink()
    call = [domains / "source", domains / "target/images", "--test", domains / "target_val.json"]
    message = run(*call, "--output", tmp_path / "out")
    assert message.startswith("error: all 4 usable images of TARGET are test images") and "\n" not in message


@pytest.mark.parametrize(
    "opts, line",
    [
        ([], "images    short side 160 pixels; images per step: 2 of the source, 2 of the target"),
        (
            ["SOLVER.IMS_PER_BATCH", 4, "INPUT.MIN_SIZE_TRAIN", "(96, 192, 128)"],
            "images    short side 96 to 192 pixels; images per step: 4 of the source, 2 of the target",
        ),
        (
            ["SOLVER.IMS_PER_BATCH_TARGET", 3, "INPUT.MIN_SIZE_TRAIN", "(96,)"],
            "images    short side 96 pixels; images per step: 2 of the source, 3 of the target",
        ),
        (["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"], "device    two cores, bfloat16"),
        (["SOLVER.AMP.ENABLED", False], "device    two cores"),
    ],
)
def test_the_plan_has_what_key_value_pairs_changed(domains, monkeypatch, capsys, opts, line):
    stop_after_check(monkeypatch)
    monkeypatch.setattr("mic_det.cli.adapt.Machine.found", lambda *_: Machine(0, 2, False, "two cores"))
    assert not run(domains / "source", domains / "target/images", "--output", domains / "out", "--dry-run", *opts)
    assert f"  {line}" in capsys.readouterr().out.split("The plan")[1].splitlines()


def test_folders_with_files_of_the_user_are_refused(tmp_path):
    check_folder(tmp_path)
    for folder in (tmp_path, tmp_path / "day", tmp_path / "day/images/out"):
        (tmp_path / "day").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match="would be read as data"):
            check_folder(folder, [tmp_path if folder == tmp_path else tmp_path / "day"])
    check_folder(tmp_path / "day2", [tmp_path / "day"])
    (tmp_path / "day").rmdir()
    write_image(tmp_path / "holiday.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ConfigError, match="has files"):
        check_folder(tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        check_folder(tmp_path / "holiday.png")
