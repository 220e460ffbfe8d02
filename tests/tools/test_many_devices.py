"""tools/train_net.py in two processes, as users start them: --num-gpus 2 and torchrun, on a machine without GPUs."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from detectron2.evaluation.testing import flatten_results_dict
from PIL import Image

from helpers.data import (
    CLASSES,
    HEIGHT,
    TOOLS,
    WIDTH,
    declared,
    finish,
    forget_registered_sets,
    load,
    refusal_here,
    start_tool,
    tiny_config,
    write_config,
    write_two_domains,
)
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.engine.trainer import MICTrainer

pytestmark = pytest.mark.slow

# boxes, masks and pixels, all parts of an alignment, accumulation and mixed precision, in one training
EVERYTHING = {
    "MODEL__META_ARCHITECTURE": "MIC", "MODEL__MASK_ON": True, "INPUT__MASK_FORMAT": "bitmask",
    "MODEL__SEM_SEG_HEAD": {"NAME": "SemSegFPNHead", "NUM_CLASSES": 4, "CONVS_DIM": 32, "NORM": "GN"},
    "MODEL__ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 16},
    "MODEL__MIC__STUDENT": "BoxPanopticFPN", "MODEL__MIC__EVALUATE": "both", "MODEL__MIC__SEM_SEG": {"MIX_WEIGHT": 1.0},
    "MODEL__MIC__PSEUDO_BOXES": {"SCORE_THRESHOLD": 0.1},
    "MODEL__MIC__ALIGNMENT": {
        "IMAGE": {"ENABLED": True, "CHANNELS": 8}, "INSTANCE": {"ENABLED": True, "FC_DIM": 8},
        "AGREEMENT": {"ENABLED": True},
    },
    "DATASETS__TARGET": ["target_train"], "TEST__PSEUDO_LABELS": {"DATASET": "target_val"},
    "SOLVER__MAX_ITER": 3, "SOLVER__ACCUMULATE_STEPS": 2, "SOLVER__AMP": {"ENABLED": True, "DTYPE": "bfloat16"},
    "SOLVER__CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "value"},
}  # fmt: skip


def add_pixels(root, content):
    """Masks of the boxes, label maps (0 = neither of the classes), and an odd number of images to evaluate on."""
    for name, coco in content.items():
        domain, split = name.split("_")
        if name == "target_val":
            coco["images"] = coco["images"][:3]
            coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] <= 3]
        maps = {x["id"]: np.zeros((HEIGHT, WIDTH), np.uint8) for x in coco["images"]}
        for a in coco["annotations"]:
            x, y, w, h = a["bbox"]
            a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            maps[a["image_id"]][y : y + h, x : x + w] = a["category_id"]
        (root / domain / "labels").mkdir(exist_ok=True)
        for x in coco["images"]:
            Image.fromarray(maps[x["id"]]).save(root / domain / "labels" / x["file_name"])
        (root / domain / f"{split}.json").write_text(json.dumps(coco))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("devices")
    add_pixels(root, write_two_domains(root))
    return root


def everything(folder, output, **keys):
    sets = declared(folder)
    for name, entry in sets.items():
        entry.update(SEM_SEG=str(folder / name.split("_")[0] / "labels"), SEM_SEG_CLASSES=["none", *CLASSES])
    return tiny_config(folder, output, DATASETS__CUSTOM=sets, **EVERYTHING, **keys)


@pytest.fixture(scope="module")
def started(folder):
    """A training under torchrun, and one by --num-gpus in which one of the processes cannot read its image."""
    config = write_config(folder / "torchrun.yaml", everything(folder, folder / "torchrun"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    torchrun = subprocess.Popen(
        [*command, str(TOOLS / "train_net.py"), "--config-file", config], cwd=folder, text=True, encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    broken = folder / "broken"
    broken.mkdir()
    for file in (folder / "source/images").iterdir():
        data = file.read_bytes()
        (broken / file.name).write_bytes(data[:200] if file.name == "train_3.png" else data)
    keys = {"DATASETS__CUSTOM__source_train__IMAGES": str(broken), "SOLVER__MAX_ITER": 50}
    config = write_config(folder / "fails.yaml", tiny_config(folder, folder / "fails", **keys))
    fails = start_tool("train_net.py", "--num-gpus", 2, "--config-file", config, cwd=folder)
    yield torchrun, fails
    for process in (torchrun, fails):
        process.kill()


def test_an_error_of_one_process_ends_all_with_one_line(started, folder):
    message = refusal_of_children(started[1])
    assert message.startswith("error: cannot read image") and "train_3.png" in message
    log = (folder / "fails/log.txt").read_text()
    assert "Rank of current process: 0. World size: 2" in log
    assert (folder / "fails/log.txt.rank1").exists()


def refusal_of_children(process):
    """As ``refusal``; Detectron2 logs a traceback to the main process's standard output."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1, f"{out[-3000:]}\n{err[-3000:]}"
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and err.strip().splitlines()[-1] == errors[0] and "Traceback" not in err, err
    return errors[0]


def test_two_processes_evaluate_as_one(started, folder):
    finish(started[0], timeout=600)
    run = folder / "torchrun"
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    found = {k: v for line in lines for k, v in line.items()}
    losses = {k for k in found if "loss" in k}
    assert {"source/loss_mask", "masked/loss_cls", "masked/loss_sem_seg", "mix/loss_sem_seg"} < losses
    assert {"align/loss_image", "align/loss_instance", "align/loss_consistency"} < losses
    assert all(math.isfinite(found[k]) for k in losses)

    with forget_registered_sets():
        cfg = load(folder, everything(folder, folder / "alone"))
        model = MICTrainer.build_model(cfg)
        MICCheckpointer(model).load(str(run / "model_final.pth"))
        expected = flatten_results_dict(MICTrainer.test(cfg, model))
    parts = {"bbox/AP50", "segm/AP", "sem_seg/mIoU", "panoptic_seg/PQ", "pseudo_labels/boxes", "pseudo_labels/mIoU"}
    assert parts | {f"student/{k}" for k in parts if "pseudo" not in k} < set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, nan_ok=True), name
    assert expected["sem_seg/mIoU"] > 0 and expected["pseudo_labels/boxes"] > 0
    for part in ("", "student/"):
        files = [f / part / "inference/target_val/coco_instances_results.json" for f in (run, folder / "alone")]
        boxes = [sorted(json.loads(f.read_text()), key=json.dumps) for f in files]
        assert len({x["image_id"] for x in boxes[0]}) == 3 and boxes[0] == boxes[1]


@pytest.mark.parametrize(
    "args, keys, environment, parts",
    [
        (["--num-gpus", 2], {"SOLVER__IMS_PER_BATCH": 3}, {}, ["SOLVER.IMS_PER_BATCH is 3", "2 processes"]),
        (["--num-gpus", 2], {"MODEL__MIC__MASK__RATIO": 2.0}, {}, ["MODEL.MIC.MASK.RATIO"]),
        (["--num-machines", 2], {}, {}, ["--dist-url tcp://HOST:PORT"]),
        (["--num-machines", 2, "--machine-rank", 2], {}, {}, ["--machine-rank is 2", "0 to 1"]),
        (["--num-gpus", 2], {}, {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, ["torchrun", "--num-gpus"]),
        ([], {}, {"RANK": "first", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, ["RANK", "whole numbers"]),
    ],
)
def test_what_cannot_work_is_told_before_a_process_starts(folder, monkeypatch, args, keys, environment, parts):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = write_config(folder / "wrong.yaml", tiny_config(folder, folder / "wrong", **keys))
    message = refusal_here("train_net.py", "--config-file", config, *args, monkeypatch=monkeypatch)
    assert all(p in message for p in parts), message


# as one of gloo's threads may do, which frees a tensor while Python ends
ABORTS_WHEN_PYTHON_ENDS = """
import os
from detectron2.utils import comm
from mic_det.engine.launch import argument_parser, launch

class Last:
    def __del__(self, abort=os.abort):
        abort()

def main(args):
    global last
    last = Last()
    print(f"{comm.get_rank()} of {comm.get_world_size()}\\n", end="")  # one write, also where Python does not buffer

if __name__ == "__main__":
    launch(main, argument_parser().parse_args())
"""


@pytest.mark.parametrize("start", [[], ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]])
def test_what_fails_while_python_ends_is_no_failure_of_a_training(folder, start):
    script = folder / "aborts.py"
    script.write_text(ABORTS_WHEN_PYTHON_ENDS)
    config = write_config(folder / "any.yaml", tiny_config(folder, folder / "any"))
    several = [] if start else ["--num-gpus", "2"]
    run = subprocess.run(
        [sys.executable, *start, str(script), "--config-file", config, *several], cwd=folder, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOOLS.parent)}, capture_output=True, timeout=1800,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert sorted(run.stdout.split("\n"))[-2:] == ["0 of 2", "1 of 2"]
