"""Models with parts that plain Detectron2 lacks are not exported: it could not build them."""

import pytest
from detectron2.modeling import build_model

from helpers.models import tiny_cfg
from mic_det.checkpoint.export import plain_configs
from mic_det.errors import ConfigError

HEAD = {
    "MODEL__META_ARCHITECTURE": "SemanticSegmentor", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 4,
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3", "res4", "res5"], "MODEL__SEM_SEG_HEAD__CONVS_DIM": 8,
    "MODEL__SEM_SEG_HEAD__NORM": "", "MODEL__MIT__NAME": "b0",
}  # fmt: skip


@pytest.mark.parametrize("backbone, head, key", [
    ("build_mit_backbone", "SemSegFPNHead", "BACKBONE.NAME is build_mit_backbone"),
    ("build_torchvision_backbone", "SemSegFPNHead", "BACKBONE.NAME is build_torchvision_backbone"),
    ("build_resnet_backbone", "DAFormerHead", "SEM_SEG_HEAD.NAME is DAFormerHead"),
    ("build_resnet_backbone", "SemSegFPNHead", None),
])  # fmt: skip
def test_parts_of_mic_det_are_named(backbone, head, key):
    cfg = tiny_cfg(**HEAD, MODEL__BACKBONE__NAME=backbone, MODEL__SEM_SEG_HEAD__NAME=head)
    model = build_model(cfg)
    if key is None:
        assert len(plain_configs(cfg, model)) == 1
        return
    with pytest.raises(ConfigError, match=f"MODEL.{key}: plain Detectron2 has no such part"):
        plain_configs(cfg, model)
