"""``MODEL.MIC.EVALUATE both``: the teacher's numbers are the teacher's, and the student's are the student's."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers_data import HEIGHT, WIDTH, declared, forget_registered_sets, load, tiny_config, write_two_domains
from mic_det.engine.trainer import MICTrainer


def test_iou_of_each_class_for_teacher_and_student(tmp_path):
    """Three quarters of the pixels are road, the rest is sky; the teacher sees road alone, the student sky alone."""
    write_two_domains(tmp_path)
    (tmp_path / "maps").mkdir()
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[: HEIGHT // 4] = 1
    for i in range(4):
        Image.fromarray(labels).save(tmp_path / f"maps/val_{i}.png")
    sets = declared(tmp_path)
    sets["target_val"].update(SEM_SEG=str(tmp_path / "maps"), SEM_SEG_CLASSES=["road", "sky", "car"])
    keys = {
        "MODEL__META_ARCHITECTURE": "MIC", "MODEL__MIC__STUDENT": "BoxPanopticFPN", "DATASETS__CUSTOM": sets,
        "MODEL__MIC__EVALUATE": "both", "DATASETS__TARGET": ["target_train"],
        "MODEL__SEM_SEG_HEAD": {"NUM_CLASSES": 3, "CONVS_DIM": 8, "NORM": ""},
    }  # fmt: skip
    with forget_registered_sets():
        cfg = load(tmp_path, tiny_config(tmp_path, tmp_path / "out", **keys))
        model = MICTrainer.build_model(cfg).eval()
        for part, sure in ((model.teacher, 0), (model.student, 1)):
            part.sem_seg_head.predictor.weight.data.zero_()
            part.sem_seg_head.predictor.bias.data.copy_(torch.eye(3)[sure])
        results = MICTrainer.test(cfg, model)
    teacher, student = results["sem_seg"], results["student"]["sem_seg"]
    assert teacher["IoU-road"] == pytest.approx(75) and teacher["IoU-sky"] == 0
    assert student["IoU-road"] == 0 and student["IoU-sky"] == pytest.approx(25)
    assert teacher["mIoU"] == pytest.approx(37.5) and student["mIoU"] == pytest.approx(12.5)
    assert np.isnan(teacher["IoU-car"])
    assert "AP50" in results["bbox"] and "AP50" in results["student"]["bbox"]
    assert model.evaluate == "both"
