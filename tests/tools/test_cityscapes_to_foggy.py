"""The published benchmark's config, unchanged but for size and length, on a small tree in Cityscapes' format."""

import json
from pathlib import Path

import pytest

from helpers.cityscapes import write_cityscapes
from helpers.faults import run_program

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parents[2] / "configs" / "cityscapes_to_foggy"


def train(folder, monkeypatch, config, **changes):
    """Two steps of a config on a tree of four images; what was printed, and the last value of each metric."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    write_cityscapes(folder / "cityscapes", betas=("0.02",))
    # the layers of a ResNet-50, fewer channels
    small = {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 32, "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 32, "MODEL.FPN.OUT_CHANNELS": 32, "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32, "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
        "MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": "", "MODEL.RESNETS.NORM": "GN", "MODEL.FPN.NORM": "GN",
        "MODEL.BACKBONE.FREEZE_AT": 0, "INPUT.MIN_SIZE_TRAIN": "[64]", "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.MAX_ITER": 2, "TEST.EVAL_PERIOD": 0, "DATALOADER.NUM_WORKERS": 0, "OUTPUT_DIR": folder / "run",
        **{k.replace("__", "."): v for k, v in changes.items()},
    }  # fmt: skip
    options = [x for kv in small.items() for x in kv]
    code, out = run_program("tools/train_net.py", "--config-file", CONFIGS / config, *options)
    assert code == 0, out[-3000:]
    lines = (folder / "run/metrics.json").read_text().splitlines()
    return out, {k: v for line in lines for k, v in json.loads(line).items()}


def test_mic_on_sada_trains_and_is_evaluated_on_all_foggy_images(tmp_path, monkeypatch):
    out, last = train(tmp_path, monkeypatch, "mic_sada_published.yaml")
    assert "cityscapes_det_train (Cityscapes train, clear): 4 images, 6 boxes" in out
    assert "cityscapes_foggy_0.02_train (Cityscapes train, fog of beta 0.02): 4 images (labels" in out
    assert {"source/loss_cls", "align/loss_image", "align/loss_instance", "align/loss_consistency"} <= last.keys()
    assert "bbox/AP50-train" in last
    results = tmp_path / "run/inference/cityscapes_foggy_0.02_val/coco_instances_results.json"
    assert {x["image_id"] for x in json.loads(results.read_text())} <= {1, 2, 3, 4}
    assert "Start inference on 4 batches" in out


def test_boxes_masks_and_pixels_of_teacher_and_student(tmp_path, monkeypatch):
    """The tree has no label maps: they are made at the start."""
    masks = {
        "MODEL__MASK_ON": True, "INPUT__MASK_FORMAT": "bitmask",
        "MODEL__MIC__SEM_SEG__MARGINS": "(0.03, 0.2, 0, 0)",  # the config's are pixels of 1024 x 2048
    }  # fmt: skip
    out, last = train(tmp_path, monkeypatch, "panoptic_mic.yaml", **masks)
    losses = {"source/loss_mask", "source/loss_sem_seg", "masked/loss_sem_seg", "masked/loss_cls", "mix/loss_sem_seg"}
    metrics = {"bbox/AP50", "segm/AP50", "sem_seg/mIoU", "sem_seg/IoU-car", "panoptic_seg/PQ"}
    assert losses | metrics | {f"student/{k}" for k in metrics} <= last.keys()
    files = {
        p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("coco_instances_results.json")
    }
    name = "inference/cityscapes_foggy_0.02_val/coco_instances_results.json"
    assert files == {name, f"student/{name}"}
