"""The published benchmark's config, unchanged but for size and length, on a small tree in Cityscapes' format."""

import json
from pathlib import Path

from helpers_cityscapes import write_cityscapes
from helpers_data import run_tool

CONFIG = Path(__file__).parents[2] / "configs" / "cityscapes_to_foggy" / "mic_sada.yaml"


def test_mic_on_sada_trains_and_is_evaluated_on_all_foggy_images(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_cityscapes(tmp_path / "cityscapes", betas=("0.02",))
    small = {
        "MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": "", "MODEL.RESNETS.NORM": "GN", "MODEL.FPN.NORM": "GN",
        "MODEL.BACKBONE.FREEZE_AT": 0, "INPUT.MIN_SIZE_TRAIN": "[64]", "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.MAX_ITER": 2, "TEST.EVAL_PERIOD": 0, "DATALOADER.NUM_WORKERS": 0, "OUTPUT_DIR": tmp_path / "run",
    }  # fmt: skip
    out = run_tool("train_net.py", "--config-file", CONFIG, *[x for kv in small.items() for x in kv], cwd=tmp_path)
    assert "cityscapes_det_train (Cityscapes train, clear): 4 images, 6 boxes" in out
    assert "cityscapes_foggy_0.02_train (Cityscapes train, fog of beta 0.02): 4 images (labels" in out
    last = {k: v for x in (tmp_path / "run/metrics.json").read_text().splitlines() for k, v in json.loads(x).items()}
    assert {"source/loss_cls", "align/loss_image", "align/loss_instance", "align/loss_consistency"} <= last.keys()
    assert "bbox/AP50-train" in last
    results = tmp_path / "run/inference/cityscapes_foggy_0.02_val/coco_instances_results.json"
    assert {x["image_id"] for x in json.loads(results.read_text())} <= {1, 2, 3, 4}
    assert "Start inference on 4 batches" in out
