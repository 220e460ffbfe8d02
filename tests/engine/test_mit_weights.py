"""SegFormer's ImageNet weights by MODEL.WEIGHTS, and models of one scale as a start for two."""

import pytest
import torch
from detectron2.modeling import build_model

from helpers.models import random_image, tiny_cfg
from mic_det.checkpoint.checkpointer import MICCheckpointer
from mic_det.errors import CheckpointError
from mic_det.modeling.mit import MixTransformer

pytestmark = pytest.mark.slow

RGB = {"INPUT__FORMAT": "RGB", "MODEL__PIXEL_MEAN": [123.675, 116.28, 103.53],
       "MODEL__PIXEL_STD": [58.395, 57.12, 57.375]}  # fmt: skip
ONE = {
    **RGB, "MODEL__MIC__STUDENT": "SemanticSegmentor", "MODEL__BACKBONE__NAME": "build_mit_backbone",
    "MODEL__MIT__NAME": "b0", "MODEL__SEM_SEG_HEAD__NAME": "DAFormerHead", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 4,
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3", "res4", "res5"], "MODEL__SEM_SEG_HEAD__CONVS_DIM": 8,
    "MODEL__SEM_SEG_HEAD__NORM": "BN", "MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 255,
}  # fmt: skip
TWO = {
    **ONE, "MODEL__BACKBONE__NAME": "build_hrda_backbone", "MODEL__SEM_SEG_HEAD__NAME": "HRDAHead",
    "MODEL__HRDA__DETAIL_SIZE": (64, 64),
}  # fmt: skip
PLAIN = {"MODEL__META_ARCHITECTURE": "SemanticSegmentor"}


def made_weights(name="b0", seed=5):
    """As SegFormer's files: the real names and shapes, a classifier too."""
    torch.manual_seed(seed)
    state = {k: torch.randn_like(v) * 0.02 for k, v in MixTransformer(name).state_dict().items()}
    last = state["norm4.weight"].shape[0]
    return {**state, "head.weight": torch.randn(1000, last), "head.bias": torch.zeros(1000)}


def build(seed=0, **keys):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(**keys))


@pytest.mark.parametrize("keys, where", [(ONE, "backbone."), (TWO, "backbone.bottom_up.")])
@pytest.mark.parametrize("form", ["plain", "below a prefix"])
def test_segformers_file_fills_the_encoders_of_student_and_teacher(tmp_path, caplog, keys, where, form):
    state = made_weights()
    file = {f"backbone.{k}": v for k, v in state.items()} if form == "below a prefix" else state
    torch.save(file, tmp_path / "mit_b0.pth")
    model = build(**keys)
    head = model.student.sem_seg_head.predictor.weight.clone()
    caplog.set_level("INFO")
    MICCheckpointer(model).load(str(tmp_path / "mit_b0.pth"))
    for part in (model.student, model.teacher):
        own = part.state_dict()
        assert all(torch.equal(own[where + k], v) for k, v in state.items() if not k.startswith("head."))
    assert torch.equal(model.student.sem_seg_head.predictor.weight, head)
    assert "fills 176 of the backbone's 176 tensors" in caplog.text and "other settings" not in caplog.text


def test_settings_that_do_not_go_with_them_are_told_and_another_size_stops(tmp_path, caplog):
    torch.save(made_weights(), tmp_path / "mit_b0.pth")
    model = build(**{**ONE, **PLAIN, "MODEL__PIXEL_STD": [1.0, 1.0, 1.0]})
    MICCheckpointer(model).load(str(tmp_path / "mit_b0.pth"))
    assert "is SegFormer's, and was trained" in caplog.text
    assert "MODEL.PIXEL_STD [58.395, 57.12, 57.375]" in caplog.text
    with pytest.raises(CheckpointError, match="fills .* of 176 tensors of the backbone"):
        MICCheckpointer(build(**{**ONE, **PLAIN, "MODEL__MIT__NAME": "b1"})).load(str(tmp_path / "mit_b0.pth"))


@pytest.mark.parametrize("kind", ["plain", "MIC"])
def test_a_model_of_one_scale_is_a_start_for_two(tmp_path, kind):
    one = build(seed=3, **ONE, **(PLAIN if kind == "plain" else {})).eval()
    torch.save({"model": one.state_dict()}, tmp_path / "one.pth")
    two = build(seed=4, **TWO).eval()
    MICCheckpointer(two).load(str(tmp_path / "one.pth"))
    first = one if kind == "plain" else one.student
    for part in (two.student, two.teacher):
        own, theirs = part.state_dict(), first.state_dict()
        for k, v in theirs.items():
            k = k.replace("backbone.", "backbone.bottom_up.").replace("sem_seg_head.", "sem_seg_head.head.")
            assert torch.equal(own[k], v), k
    again = build(seed=6, **TWO)
    torch.save({"model": two.state_dict()}, tmp_path / "two.pth")
    MICCheckpointer(again).load(str(tmp_path / "two.pth"))
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.parametrize("keys", [ONE, TWO])
def test_a_trained_model_is_loaded_to_predict(tmp_path, keys):
    model = build(seed=3, **keys, **PLAIN).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    other = build(seed=4, **keys, **PLAIN).eval()
    MICCheckpointer(other, complete=True).load(str(tmp_path / "model.pth"))
    image = [{"image": random_image((96, 80))}]
    with torch.no_grad():
        assert torch.equal(model(image)[0]["sem_seg"], other(image)[0]["sem_seg"])
