"""The shipped configs of today's backbones, made small, train for a few steps of MIC."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from helpers.models import source_input, target_input
from mic_det import get_mic_cfg
from mic_det.engine.optimizer import build_fused_optimizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]
CONFIGS = Path(__file__).parents[2] / "configs" / "cityscapes_to_foggy"

VIT = ["MODEL.VIT.EMBED_DIM", 24, "MODEL.VIT.DEPTH", 3, "MODEL.VIT.NUM_HEADS", 2, "MODEL.VIT.GLOBAL_BLOCKS", (1,),
       "MODEL.VIT.WINDOW_SIZE", 3]  # fmt: skip
SMALLER = {"convnext": [], "swin": [], "timm": ["MODEL.TIMM.NAME", "convnextv2_atto"],
           "vitdet": VIT, "dinov2": VIT, "dinov3": VIT}  # fmt: skip
SMALL = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 16,
         "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]], "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50,
         "SOLVER.BASE_LR", 0.002, "MODEL.MIC.PSEUDO_BOXES.SCORE_THRESHOLD", 0.05]  # fmt: skip


@pytest.mark.parametrize("name", SMALLER)
def test_a_few_steps(name):
    if name not in ("convnext", "swin"):
        pytest.importorskip("timm")
    cfg = get_mic_cfg(str(CONFIGS / f"{name}_mic.yaml"), SMALL + SMALLER[name])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = build_fused_optimizer(cfg, model)
    before = {k: v.clone() for k, v in model.named_parameters()}

    def losses_of(seed):
        torch.manual_seed(seed)  # of masks, regions and dropped branches
        return model([source_input(), target_input()])

    def supervised():
        with torch.no_grad():
            return sum(v.item() for k, v in losses_of(0).items() if k.startswith("source/"))

    with EventStorage():
        first = supervised()
        for i in range(8):
            losses = losses_of(i)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            without = [k for k, p in model.student.named_parameters() if p.requires_grad and p.grad is None]
            assert not without, "every parameter has a gradient, as distributed training asks for"
            optimizer.step()
        last = supervised()
    assert last < 0.9 * first
    assert losses["masked/loss_rpn_cls"] > 0 and losses["masked/loss_cls"] > 0
    model.update_teacher()
    backbone = [k for k in before if k.startswith("student.backbone.")]
    parameters = dict(model.named_parameters())
    assert all(not torch.equal(parameters[k], before[k]) for k in backbone)
    for key in backbone[::10]:  # the teacher follows
        own = key.replace("student.", "teacher.")
        assert not torch.equal(parameters[own], before[own]) and not torch.equal(parameters[own], parameters[key])
