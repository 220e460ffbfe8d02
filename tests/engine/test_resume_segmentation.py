"""A run of HRDA with all parts of DAFormer that is stopped and resumed takes the steps it would have taken."""

import pytest
import torch
from detectron2.engine import HookBase

from helpers.resume import make_trainer, metrics, same, saved
from mic_det.modeling.mit import MixTransformer

pytestmark = pytest.mark.slow

# what draws random numbers or counts steps: drop path, dropout, windows, ClassMix, masks, crops, classes, averages
RUN = {
    "MODEL__META_ARCHITECTURE": "MIC", "DATASETS__TARGET": ["fog"],
    "MODEL__BACKBONE__NAME": "build_hrda_backbone", "MODEL__MIT": {"NAME": "b0", "DROP_PATH": 0.3},
    "MODEL__HRDA": {"BACKBONE": "build_mit_backbone", "HEAD": "DAFormerHead", "DETAIL_SIZE": [32, 32]},
    "MODEL__DAFORMER_HEAD": {"DROPOUT": 0.3},
    "MODEL__SEM_SEG_HEAD": {"NAME": "HRDAHead", "NUM_CLASSES": 4, "CONVS_DIM": 8, "NORM": "BN", "IGNORE_VALUE": 255,
                            "IN_FEATURES": ["res2", "res3", "res4", "res5"]},
    "MODEL__MIC": {"STUDENT": "SlidingSegmentor",
                   "SEM_SEG": {"MIX_WEIGHT": 1.0, "PIXEL_THRESHOLD": 0.1, "MASK": {"BLOCK_SIZE": 16}},
                   "FEATURE_DISTANCE": {"WEIGHT": 0.1, "CLASSES": [0, 1, 2, 3], "MIN_RATIO": 0.2}},
    "DATALOADER": {"SAMPLER_TRAIN": "RareClassSampler", "NUM_WORKERS": 0, "FILTER_EMPTY_ANNOTATIONS": False,
                   "RARE_CLASSES": {"MIN_PIXELS": 100, "MIN_CROP_PIXELS": 100}},
    "INPUT__MIN_SIZE_TRAIN": [64], "INPUT__CROP": {
        "ENABLED": True, "TYPE": "absolute", "SIZE": [64, 64], "AFTER_RESIZE": True, "SINGLE_CATEGORY_MAX_AREA": 0.9},
    "SOLVER__OPTIMIZER": "AdamW", "SOLVER__HEAD_LR_FACTOR": 10.0, "SOLVER__BASE_LR": 1e-4, "SOLVER__MAX_ITER": 7,
    "SOLVER__LR_SCHEDULER_NAME": "WarmupPolyLR", "SOLVER__WARMUP_ITERS": 3, "SOLVER__CHECKPOINT_PERIOD": 3,
    "SOLVER__SEQUENTIAL_BACKWARD": True,
}  # fmt: skip


class Stop(HookBase):
    def __init__(self, at):
        self.at = at

    def before_step(self):
        if self.trainer.iter == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(5)
    state = MixTransformer("b0").state_dict()
    # as trained ones: with biases of 0, LayerNorms make the gradients of crops that are hidden altogether overflow
    state = {k: v + 0.1 * torch.randn_like(v) if k.endswith("bias") else v for k, v in state.items()}
    torch.save(state, tmp_path / "mit_b0.pth")

    def train(name, resume=False, stop=None, **keys):
        trainer = make_trainer(
            data, tmp_path / name, resume, **{**RUN, "MODEL__WEIGHTS": str(tmp_path / "mit_b0.pth"), **keys}
        )
        if stop is not None:
            trainer.register_hooks([Stop(stop)])
        trainer.train()
        return tmp_path / name

    return train


def test_stopped_and_resumed(run):
    straight = run("straight")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop=5)  # two steps after the last checkpoint
    resumed = run("stopped", resume=True)
    first, second = saved(straight), saved(resumed)
    assert same(first["model"], second["model"])
    assert same(first["trainer"]["_trainer"]["optimizer"], second["trainer"]["_trainer"]["optimizer"])
    rows = metrics(straight)
    losses = {"source/loss_sem_seg", "source/loss_feature_distance", "masked/loss_sem_seg", "mix/loss_sem_seg"}
    assert all(rows[-1][k] > 0 for k in losses) and rows[-1] == metrics(resumed)[-1]
    # the frozen encoder is not in the file, and is there again; another run differs
    assert not any("reference" in k for k in first["model"])
    other = run("other", SEED=2)
    assert not same(first["model"], saved(other)["model"])
