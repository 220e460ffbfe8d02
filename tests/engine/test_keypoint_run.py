"""A rehearsal with keypoints: the shipped configs, two training steps with evaluation and pictures, and predictions."""

import json
from pathlib import Path

import cv2
import pytest

from helpers.data import run_tool_here, tiny_config, write_config, write_two_domains
from helpers.keypoints import HEAD, add_keypoints
from mic_det.engine.setup import load_config
from mic_det.experiments.ablation import read_plan
from mic_det.experiments.report import final_results
from mic_det.experiments.run_files import read_run

pytestmark = pytest.mark.slow
ROOT, START = Path(__file__).resolve().parents[2], "keypoint_source_strong_start"


def test_two_steps_evaluation_and_pictures(tmp_path, monkeypatch):
    write_two_domains(tmp_path)
    for file in tmp_path.glob("*/*.json"):
        add_keypoints(file)
    keys = {
        **HEAD, "MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"], "SOLVER__MAX_ITER": 2,
        "MODEL__MIC__CONSISTENCY__KEYPOINT_WEIGHT": 1.0, "MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD": 0.05,
        "MODEL__MIC__PSEUDO_KEYPOINTS__SCORE_THRESHOLD": 0.0, "TEST__DETECTIONS_PER_IMAGE": 8,
        "SOLVER__WARMUP_ITERS": 0,
    }  # fmt: skip
    run = tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", tiny_config(tmp_path, run, **keys))
    run_tool_here("train_net.py", "--config-file", config, monkeypatch=monkeypatch)
    logged = {}
    for line in (run / "metrics.json").read_text().splitlines():
        logged.update(json.loads(line))
    losses = {"source/loss_keypoint", "masked/loss_keypoint", "pseudo/num_keypoints"}
    metrics = {"keypoints/AP", "pck/PCK", "pck/PCK-red", "pck/PCK-occluded", "pck/PCK-end"}
    assert losses | metrics <= set(logged)
    assert logged["masked/loss_keypoint"] > 0 and "pck/PCK-blue" not in logged
    results = final_results(read_run(run))["target_val"][1]
    assert {"AP50", "keypoint AP", "PCK", "PCK-red", "PCK-green"} <= set(results)
    weights = ["MODEL.WEIGHTS", run / "model_final.pth"]
    run_tool_here(
        "visualize_pseudo_boxes.py", "--config-file", config, "--num-images", "1", "--output", tmp_path / "pictures",
        *weights, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert cv2.imread(str(tmp_path / "pictures/val_0.png")) is not None
    run_tool_here(
        "predict.py", "--config-file", config, "--input", tmp_path / "target/images/val_0.png", "--output",
        tmp_path / "found", "--confidence-threshold", "0.05", "--format", "pictures", *weights, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert len(list((tmp_path / "found").rglob("*.jpg"))) == 1


def test_the_shipped_configs_and_their_plan_belong_together():
    plan = read_plan(ROOT / "configs/minicity/ablation_keypoints.yaml")
    assert plan.metric == "PCK" and plan.seeds == [2, 3, 4] and plan.burn_in[0].name == f"{START}.yaml"
    for file, opts in (plan.burn_in, *plan.cells.values()):
        cfg, name = load_config(file, opts), file.stem
        assert cfg.OUTPUT_DIR == f"output/minicity/{name}" and cfg.DATASETS.TEST[-1] == plan.test
        assert cfg.MODEL.KEYPOINT_ON and cfg.TEST.KEYPOINT_PCK_SHARE == 0.05
        assert cfg.MODEL.WEIGHTS == ("" if name == START else f"output/minicity/{START}/model_final.pth")
        assert (cfg.MODEL.MIC.CONSISTENCY.KEYPOINT_WEIGHT, len(cfg.DATASETS.TARGET)) == (
            (1.0, 1) if name == "keypoint_mic" else (0.0, 0)
        )
        assert (cfg.MODEL.MIC.MASK.RATIO == 0) == ("MODEL.MIC.MASK.RATIO" in opts)
