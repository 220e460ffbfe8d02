"""tools/train_net.py as users run it: real short trainings, checkpoints, and what is refused at the door."""

import json
import math
import shutil

import pytest
import torch

from helpers.data import CLASSES, finish, refusal_here, start_tool, tiny_config, write_config, write_two_domains
from helpers.faults import check_refused, run_program

TRAIN = "tools/train_net.py"
pytestmark = pytest.mark.slow
RCNN_LOSSES = {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
MIC = {
    "MODEL__META_ARCHITECTURE": "MIC",
    "MODEL__MIC__PSEUDO_BOXES": {"SCORE_THRESHOLD": 0.15},  # a detector that saw 80 steps is not sure of much
    "DATASETS__TARGET": ["target_train"],
    "SOLVER__BASE_LR": 0.01,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_two_domains(root)
    return root


def start(folder, name, *args, **keys):
    """Start a training by config alone."""
    config = write_config(folder / f"{name}.yaml", tiny_config(folder, folder / name, **keys))
    return start_tool("train_net.py", "--config-file", config, *args, cwd=folder)


def run_here(folder, name, *args, **keys):
    """As ``start``, to the end and in this process, without the seconds in which a process of its own starts."""
    config = write_config(folder / f"{name}.yaml", tiny_config(folder, folder / name, **keys))
    code, text = run_program(TRAIN, "--config-file", config, *args)
    assert code == 0 and "Traceback" not in text, text[-3000:]
    return text


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]


def last_values(run):
    return {k: v for line in metrics(run) for k, v in line.items()}


def weights(run, file="model_final.pth", prefix=""):
    state = torch.load(run / file, weights_only=True)["model"]
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def predictions(run, dataset="target_val"):
    return json.loads((run / "inference" / dataset / "coco_instances_results.json").read_text())


def distance(a, b):
    assert a.keys() == b.keys()
    return sum(float((a[k].double() - b[k].double()).square().sum()) for k in a) ** 0.5


def check_losses(run, names):
    losses = {k: v for k, v in last_values(run).items() if "loss" in k}
    assert set(losses) == names | {"total_loss"}
    assert all(math.isfinite(v) for v in losses.values())
    assert losses["total_loss"] > 0


@pytest.fixture(scope="module")
def source_only(folder):
    """In a process of its own, as users start it; the other runs are in this one."""
    sets = ["source_val", "target_val"]
    keys = {"SOLVER__MAX_ITER": 80, "SOLVER__BASE_LR": 0.04, "DATASETS__TEST": sets}
    return folder / "source_only", finish(start(folder, "source_only", **keys))


@pytest.fixture(scope="module")
def mic(folder, source_only):
    """20 steps from the source-only detector; each step adds up two micro-batches."""
    keys = {
        **MIC,
        "MODEL__WEIGHTS": str(source_only[0] / "model_final.pth"),
        "MODEL__MIC__BURN_IN_STEPS": 2,
        "SOLVER__MAX_ITER": 20,
        "SOLVER__ACCUMULATE_STEPS": 2,
        "SOLVER__CLIP_GRADIENTS": {"ENABLED": True},  # by value: fails where a parameter has no gradient
    }
    return folder / "mic", run_here(folder, "mic", **keys), keys


@pytest.fixture(scope="module")
def resumed(folder, mic):
    """The same run, continued to 26 steps; the first part is kept aside."""
    first = folder / "mic_first"
    shutil.copytree(mic[0], first)
    keys = {**mic[2], "SOLVER__MAX_ITER": 26, "MODEL__WEIGHTS": "a/file/that/is/not/needed.pth"}
    return first, mic[0], run_here(folder, "mic", "--resume", **keys)


def test_source_only_training_learns_from_config_alone(source_only):
    run, _ = source_only
    check_losses(run, RCNN_LOSSES)
    assert not any(k.startswith(("teacher.", "student.")) for k in weights(run))
    last = last_values(run)
    assert last["source_val/bbox/AP50"] > 1, "it finds something, which an untrained detector does not"
    assert {f"{d}/bbox/AP50-{c}" for d in ("source_val", "target_val") for c in CLASSES} <= set(last)
    for file in ("config.yaml", "log.txt", "last_checkpoint", "model_final.pth"):
        assert (run / file).is_file()


def test_data_sets_are_described_at_start(source_only):
    run, printed = source_only
    # 8 and 4 images with two rectangles each
    assert "source_train: 8 images, 16 boxes" in printed
    assert "target_val: 4 images, 8 boxes" in (run / "log.txt").read_text()


def test_oracle_trains_on_target_labels_in_bfloat16(folder):
    run = folder / "oracle"
    amp = {"ENABLED": True, "DTYPE": "bfloat16"}
    printed = run_here(folder, "oracle", SOLVER__MAX_ITER=6, SOLVER__AMP=amp, DATASETS__TRAIN=["target_train"])
    assert "target_train: 8 images, 16 boxes" in printed
    check_losses(run, RCNN_LOSSES)
    assert all(v.dtype != torch.bfloat16 for v in weights(run).values())


def test_mic_logs_its_named_losses_and_pseudo_boxes(mic):
    run, printed, _ = mic
    masked = {"masked/loss_cls", "masked/loss_rpn_cls"}
    check_losses(run, {f"source/{k}" for k in RCNN_LOSSES} | masked)
    last = last_values(run)
    assert last["pseudo/num_boxes"] > 0, "the teacher speaks, or the masked loss is not tried here"
    assert last["masked/loss_cls"] > 0
    assert {f"pseudo/num_boxes_{c}" for c in CLASSES} <= set(last)
    assert last["source/num_boxes"] == 2  # two rectangles in every image
    assert "TARGET target_train: 8 images" in printed
    assert "Patch mask: 0.5 of the patches are hidden, of 16 pixels at a short side of 64" in printed


def test_the_teacher_left_its_start_and_follows_the_student(mic, source_only):
    start = weights(source_only[0])
    teacher, student = weights(mic[0], prefix="teacher."), weights(mic[0], prefix="student.")
    moved, apart, student_moved = distance(teacher, start), distance(teacher, student), distance(student, start)
    assert moved > 0 and apart > 0
    # it lies behind the student, between the start and where the student is now
    assert moved < student_moved and apart < student_moved
    assert int(weights(mic[0])["num_steps"]) == 20, "one update a step, not one a micro-batch"


def test_resume_continues_iteration_weights_and_the_teachers_time(resumed):
    first, run, printed = resumed
    assert "Starting training from iteration 20" in printed
    # losses at the end of each part; lines of an evaluation have no losses
    assert [line["iteration"] for line in metrics(run) if "total_loss" in line] == [19, 25]
    assert int(weights(run)["num_steps"]) == 26
    assert torch.load(run / "model_final.pth", weights_only=True)["iteration"] == 25
    # six more steps: closer to where the first part ended than that was to nothing
    before, after = weights(first, prefix="teacher."), weights(run, prefix="teacher.")
    zero = {k: torch.zeros_like(v) for k, v in before.items()}
    assert 0 < distance(before, after) < 0.2 * distance(before, zero)


@pytest.fixture(scope="module")
def evaluated(folder, resumed):
    """The final checkpoint, evaluated by itself as MIC and as a plain detector."""
    file = resumed[1] / "model_final.pth"
    cases = {
        "mic": MIC,
        "plain": {"DATASETS__TRAIN": ["source_train"]},
    }
    args = ("--eval-only", "MODEL.WEIGHTS", file)
    for name, keys in cases.items():
        run_here(folder, f"eval_{name}", *args, **keys)
    return {name: folder / f"eval_{name}" for name in cases}


def test_evaluating_the_checkpoint_gives_the_predictions_of_the_end_of_training(resumed, evaluated):
    at_the_end = predictions(resumed[1])
    assert len(at_the_end) > 4
    assert predictions(evaluated["mic"]) == at_the_end


def test_a_plain_detector_evaluates_the_teacher_of_a_mic_checkpoint(resumed, evaluated):
    assert predictions(evaluated["plain"]) == predictions(resumed[1])


# -------------------------------------------------------------------------- what is refused at start


def test_missing_files_end_with_one_error_line_and_exit_code_1(folder):
    config = write_config(folder / "good.yaml", tiny_config(folder, folder / "wrong"))
    calls = {
        str(folder / "gone.yaml"): ["--config-file", folder / "gone.yaml"],
        "no/such/file.pth": ["--config-file", config, "MODEL.WEIGHTS", "no/such/file.pth"],
        "no/such/other.pth": ["--config-file", config, "--eval-only", "MODEL.WEIGHTS", "no/such/other.pth"],
    }
    for name, args in calls.items():
        check_refused(TRAIN, args, [name])


@pytest.mark.parametrize(
    "keys, args, parts",
    [
        ({}, ["MODEL.MIC.MASK.RATOI", "0.5"], ["MODEL.MIC.MASK.RATOI"]),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 5}, [], ["source_train", "MODEL.ROI_HEADS.NUM_CLASSES is 5"]),
        (MIC, ["MODEL.MIC.MASK.RATIO", "1.0"], ["MODEL.MIC.MASK.RATIO", "[0, 1)"]),
        ({**MIC, "DATASETS__TARGET": ["targte_train"]}, [], ["DATASETS.TARGET", "targte_train"]),
        ({"DATASETS__CUSTOM__source_train__IMAGES": "no/images"}, [], ["no/images", "source_train.IMAGES"]),
        ({}, ["--eval-only"], ["MODEL.WEIGHTS is empty", "--resume"]),
        ({}, ["--eval-only", "--resume"], ["MODEL.WEIGHTS is empty"]),
    ],
    ids=["unknown key", "class count", "ratio 1", "unknown set", "no images", "nothing to evaluate", "nor to resume"],
)
def test_a_wrong_config_ends_with_one_error_line(folder, monkeypatch, keys, args, parts):
    config = write_config(folder / "wrong.yaml", tiny_config(folder, folder / "wrong", **keys))
    message = refusal_here("train_net.py", "--config-file", config, *args, monkeypatch=monkeypatch)
    assert all(part in message for part in parts), message


def test_an_image_that_breaks_in_training_is_named_in_the_last_line(folder):
    """Only decoding finds it; Detectron2 logs a traceback, but the end is readable."""
    images = folder / "broken images"
    shutil.copytree(folder / "source/images", images)
    for file in images.glob("train_*.png"):
        file.write_bytes(file.read_bytes()[:200])
    keys = {"DATASETS__CUSTOM__source_train__IMAGES": str(images), "DATALOADER__NUM_WORKERS": 1}
    config = write_config(folder / "broken.yaml", tiny_config(folder, folder / "broken", **keys))
    check_refused(TRAIN, ["--config-file", config], ["error: cannot read image", "broken images", "train_"])
