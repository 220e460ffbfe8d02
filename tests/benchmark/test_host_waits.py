"""Where a step would make the host wait for a GPU, found on the CPU: operators whose result the host must know."""

import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.data import load, tiny_config, write_two_domains
from mic_det.benchmark.synthetic import make_batches
from mic_det.benchmark.variants import make_variant
from mic_det.config import QUALITY_MODES

pytestmark = pytest.mark.slow

# the size or the value of what they give is not known before they have run; box NMS copies its mask to the host
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal",
           "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::repeat_interleave",
           "aten::bincount", "torchvision::nms"}  # fmt: skip


class Waits(TorchDispatchMode):
    """Counts them by the function of mic_det that calls PyTorch itself; what Detectron2's code calls is its own."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        by_mask = name.startswith("aten::index") and isinstance(args[1], (list, tuple)) and any(
            isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )  # fmt: skip
        if name in WAITING or by_mask:
            frames = [f for f in traceback.extract_stack() if "/mic_det/" in f.filename or "/detectron2/" in f.filename]
            if frames and "/mic_det/" in frames[-1].filename and "/detectron2/" not in frames[-1].filename:
                self.counts[f"{Path(frames[-1].filename).stem}.{frames[-1].name}"] += 1
        return func(*args, **(kwargs or {}))


ALL_TERMS = {"TARGETS": "soft", "RPN_BOX_REG_WEIGHT": 1.0, "ROI_BOX_REG_WEIGHT": 1.0}


SETTINGS = [
    *({"CONSISTENCY": {"QUALITY": mode}} for mode in QUALITY_MODES), {"CONSISTENCY": ALL_TERMS},
    {"PSEUDO_BOXES": {"IGNORE_SCORE": 0.2}}, {"MASK": {"PROB": 0.5}},
    {"PSEUDO_BOXES": {"ADAPT": "class_shares"}},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_mic_step_waits_only_to_learn_how_many_pseudo_boxes_there_are(tmp_path, settings):
    write_two_domains(tmp_path)
    keys = {"MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["target_train"],
            "MODEL__MIC": settings, "SOLVER__IMS_PER_BATCH_TARGET": 3}  # fmt: skip
    cfg = load(tmp_path, tiny_config(tmp_path, **keys))
    batches, _ = make_batches(cfg, 1, (96, 128), True)
    variant = make_variant(cfg, "mic", batches)
    variant.run()
    with Waits() as waits:
        variant.run()
    found = dict(waits.counts)
    # one number of boxes and one NMS for each target image
    assert found.pop("pseudo_labels.select_pseudo_boxes") == 2 * 3
    # the number of undecided boxes, just after that
    looks = "IGNORE_SCORE" in settings.get("PSEUDO_BOXES", {})
    assert found.pop("pseudo_labels.undecided_boxes", 0) == (3 if looks else 0)
    # losses and gradient norm come to the host together, once a step
    assert found.pop("non_finite.read") == 1
    # the backward of indexing by a mask, which is in Detectron2's RPN loss; and torchvision's jitter and blur, whose
    # settings are CPU tensors on any machine: nothing to wait for
    assert found.keys() == {"train_loop._backward", "masking.forward"}
