"""A rehearsal with keypoints: the shipped configs, two training steps with evaluation and pictures, and predictions."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from helpers.data import run_tool_here, tiny_config, write_config, write_two_domains
from helpers.keypoints import HEAD, add_keypoints
from mic_det.engine.setup import load_config
from mic_det.experiments.ablation import read_plan
from mic_det.experiments.report import final_results
from mic_det.experiments.run_files import read_run
from mic_det.inference.predictor import Predictor

pytestmark = pytest.mark.slow
MASK_HEAD = {
    "MODEL__MASK_ON": True, "INPUT__MASK_FORMAT": "bitmask", "MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION": 3,
    "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead", "MODEL__ROI_MASK_HEAD__NUM_CONV": 1,
    "MODEL__ROI_MASK_HEAD__CONV_DIM": 8, "MODEL__MIC__CONSISTENCY__MASK_WEIGHT": 1.0,
}  # fmt: skip
ROOT, START = Path(__file__).resolve().parents[2], "keypoint_source_strong_start"


def test_two_steps_evaluation_and_pictures(tmp_path, monkeypatch):
    write_two_domains(tmp_path)
    for file in tmp_path.glob("*/*.json"):
        content = add_keypoints(file)
        for a in content["annotations"]:
            x, y, w, h = a["bbox"]
            a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        file.write_text(json.dumps(content))
    keys = {
        **HEAD, "MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"], "SOLVER__MAX_ITER": 2,
        "MODEL__MIC__CONSISTENCY__KEYPOINT_WEIGHT": 1.0, "MODEL__MIC__PSEUDO_BOXES__SCORE_THRESHOLD": 0.05,
        "MODEL__MIC__PSEUDO_KEYPOINTS__SCORE_THRESHOLD": 0.0, "TEST__DETECTIONS_PER_IMAGE": 8,
        "SOLVER__WARMUP_ITERS": 0, **MASK_HEAD,
    }  # fmt: skip
    run = tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", tiny_config(tmp_path, run, **keys))
    run_tool_here("train_net.py", "--config-file", config, monkeypatch=monkeypatch)
    logged = {}
    for line in (run / "metrics.json").read_text().splitlines():
        logged.update(json.loads(line))
    losses = {"source/loss_keypoint", "masked/loss_keypoint", "pseudo/num_keypoints", "masked/loss_mask"}
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
    picture = tmp_path / "target/images/val_0.png"
    run_tool_here(
        "predict.py", "--config-file", config, "--input", picture, "--output", tmp_path / "found",
        "--confidence-threshold", "0.05", "--format", "pictures,coco", *weights, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert len(list((tmp_path / "found").rglob("*.jpg"))) == 1
    check_coco_files(tmp_path / "found", load_config(config, [str(x) for x in weights]), picture)


def check_coco_files(folder, cfg, picture):
    """Against what Detectron2 writes of the same predictions, except that boxes of "blue" have no keypoints."""
    instances = Predictor(cfg, 0.05)(cv2.imread(str(picture))[:, :, ::-1].copy())["instances"]
    expected = instances_to_coco_json(instances, 1)
    results = json.loads((folder / "coco_instances_results.json").read_text())
    assert len(results) == len(expected) > 0 and any("keypoints" in r for r in results)
    whole = json.loads((folder / "predictions.json").read_text())["annotations"]
    for own, theirs, annotation in zip(results, expected, whole):
        names = {"keypoints"} if theirs["category_id"] < 2 else set()
        assert own["segmentation"] == theirs["segmentation"] == annotation["segmentation"]
        assert ("keypoints" in own) == ("keypoints" in annotation) == bool(names)
        for key in {"bbox", "score"} | names:
            assert own[key] == pytest.approx(theirs[key], abs=1e-3), key
        if names:
            points, written = np.reshape(own["keypoints"], (-1, 3)), np.reshape(annotation["keypoints"], (-1, 3))
            assert np.array_equal(points[:, :2], written[:, :2]) and (written[:, 2] == 2).all()
            assert annotation["keypoint_scores"] == points[:, 2].tolist() and annotation["num_keypoints"] == 3


def test_the_shipped_configs_and_their_plan_belong_together():
    plan = read_plan(ROOT / "configs/minicity/ablation_keypoints.yaml")
    assert plan.metric == "PCK" and plan.seeds == [2, 3, 4] and plan.burn_in[0].name == f"{START}.yaml"
    for file, opts in (plan.burn_in, *plan.cells.values()):
        cfg, name = load_config(file, opts), file.stem
        assert cfg.OUTPUT_DIR == f"output/minicity/{name}" and cfg.DATASETS.TEST[-1] == plan.test
        assert cfg.MODEL.KEYPOINT_ON and cfg.MODEL.MASK_ON and cfg.TEST.KEYPOINT_PCK_SHARE == 0.05
        before = "source_strong_start" if name == START else START
        assert cfg.MODEL.WEIGHTS == f"output/minicity/{before}/model_final.pth"
        consistency = cfg.MODEL.MIC.CONSISTENCY
        assert (consistency.KEYPOINT_WEIGHT, consistency.MASK_WEIGHT, len(cfg.DATASETS.TARGET)) == (
            (1.0, 1.0, 1) if name == "keypoint_mic" else (0.0, 0.0, 0)
        )
        assert (cfg.MODEL.MIC.MASK.RATIO == 0) == ("MODEL.MIC.MASK.RATIO" in opts)
