"""Mixed precision, resume and export on a GPU; see conftest.py for the device."""

import copy
import itertools
import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from helpers.models import ALIGNMENT, ALL_BOXES, NO_BOXES, source_input, target_input, tiny_cfg
from helpers.resume import MIC, Killed, train
from mic_det.checkpoint.export import single_detector
from mic_det.deploy.compare import compare
from mic_det.deploy.files import OPSET, TorchScriptPredictor, describe, write_onnx, write_torchscript
from mic_det.deploy.onnx_predictor import OnnxPredictor
from mic_det.deploy.trace import Traceable, noise
from mic_det.engine.optimizer import build_fused_optimizer
from mic_det.engine.train_loop import AccumulatingTrainer
from mic_det.inference.detections import Detections

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

HALF = [torch.float16, torch.bfloat16]
# No choice hangs on the last bits of a score: all anchors and all proposals count, and there are no pseudo-boxes.
NO_CHOICES = {
    **NO_BOXES, **ALIGNMENT, "MODEL__MIC__ALIGNMENT__INSTANCE__DROPOUT": 0.0,
    "MODEL__RPN__BATCH_SIZE_PER_IMAGE": 10**5, "MODEL__RPN__NMS_THRESH": 1.0,
    "MODEL__RPN__PRE_NMS_TOPK_TRAIN": 10**5, "MODEL__RPN__POST_NMS_TOPK_TRAIN": 10**5,
    "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 10**5, "MODEL__ROI_HEADS__POSITIVE_FRACTION": 1.0,
}  # fmt: skip


# The depth of the real backbone, with few channels.
NARROW = {
    "MODEL__RESNETS__DEPTH": 50, "MODEL__RESNETS__STEM_OUT_CHANNELS": 4, "MODEL__RESNETS__WIDTH_PER_GROUP": 4,
    "MODEL__RESNETS__RES2_OUT_CHANNELS": 8,
}  # fmt: skip
SCALE = 2.0**8  # of float16's losses: no gradient of these models overflows


def make_trainer(device, dtype, **keys):
    """A MIC on one source and one target image, in float32 (None) or in mixed precision."""
    cfg = tiny_cfg(MODEL__DEVICE=device, **NARROW, **keys)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    batches = itertools.repeat([source_input(), target_input()])
    trainer = AccumulatingTrainer(model, batches, build_fused_optimizer(cfg, model), amp_dtype=dtype)
    if dtype is torch.float16:
        trainer.grad_scaler = torch.amp.GradScaler(device, init_scale=SCALE)
    return trainer


def run(trainer, steps=1):
    """Losses of the last step; random numbers are the same in each call."""
    torch.manual_seed(1)
    with EventStorage() as storage:
        for trainer.iter in range(steps):
            storage.iter = trainer.iter
            trainer.run_step()
        return {k: v for k, (v, _) in storage.latest().items() if "loss" in k}


def gradient(trainer):
    return torch.cat([p.grad.float().flatten() for p in trainer.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_step_in_mixed_precision_is_that_of_float32_but_for_rounding(device, dtype, monkeypatch):
    """A layer rounds its input, its weights and its output by at most u; the gradient passes each layer twice.

    With n independent roundings, the relative error of the gradient is about u sqrt(n). Twice that is allowed: small
    gradients have fewer bits in float16.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # whose convolutions have float16's bits
    exact, half = make_trainer(device, None, **NO_CHOICES), make_trainer(device, dtype, **NO_CHOICES)
    expected, losses = run(exact), run(half)
    assert losses.keys() == expected.keys() and all(map(math.isfinite, losses.values()))
    u = torch.finfo(dtype).eps / 2
    path = [m for m in half.model.student.backbone.bottom_up.modules() if isinstance(m, nn.Conv2d)]
    tolerance = 2 * u * math.sqrt(3 * 2 * (len(path) + 5))  # five more: two of the FPN, three of a head
    g, e = gradient(half), gradient(exact)
    error = float((g - e).norm() / e.norm())
    print(f"relative error of the gradient in {dtype}: {error:.5f}, allowed {tolerance:.5f}")
    assert u / 10 < error < tolerance, "the lower bound: this was mixed precision"
    assert losses["total_loss"] == pytest.approx(expected["total_loss"], rel=tolerance)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_steps_with_pseudo_boxes_stay_finite_in_mixed_precision(device, dtype):
    trainer = make_trainer(device, dtype, **ALL_BOXES, **ALIGNMENT)
    dtypes = set()
    for model in (trainer.model.student, trainer.model.teacher):
        model.backbone.fpn_output2.register_forward_hook(lambda module, args, out: dtypes.add(out.dtype))
    assert run(trainer)["masked/loss_cls"] > 0, "there are pseudo-boxes"
    losses = run(trainer, steps=3)
    assert all(map(math.isfinite, losses.values()))
    assert dtypes == {dtype}, "the teacher's pass too"
    model = trainer.model
    model.update_teacher()
    assert model.steps == 4
    tensors = [*model.parameters(), *model.buffers()]
    assert all(x.isfinite().all() for x in tensors if x.is_floating_point())
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_two_overflows_are_skipped_without_a_step_of_the_teacher(device):
    """Loss scales of 2^40 and 2^24 overflow in float16; 2^8, to which they fall, does not."""
    trainer = make_trainer(device, torch.float16, **ALL_BOXES)
    trainer.grad_scaler = torch.amp.GradScaler(device, init_scale=2.0**40, backoff_factor=2.0**-16)
    model = trainer.model
    seen, before = [], [p.detach().clone() for p in model.student.parameters()]
    for _ in range(4):
        run(trainer)
        model.update_teacher()
        same = all(torch.equal(p, x) for p, x in zip(model.student.parameters(), before))
        copied = all(torch.equal(p, x) for p, x in zip(model.teacher.parameters(), before))
        seen.append((model.steps, same, copied, trainer.grad_scaler.get_scale()))
    assert seen[0] == (0, True, True, 2.0**24) and seen[1] == (0, True, True, SCALE)
    assert [x[:3] for x in seen[2:]] == [(1, False, False), (2, False, False)]


def test_a_resumed_run_has_the_losses_of_the_run_that_was_killed(data, tmp_path, device):
    """Weights and random states are those of step 4, so its losses are equal up to the order of sums.

    From then on the weights differ by the order of sums in the backward pass, which GPUs do not fix: relative errors
    of 1e-6 in the gradients.
    """
    keys = {**MIC, "MODEL__DEVICE": device, "SOLVER__CHECKPOINT_PERIOD": 4}
    with pytest.raises(Killed) as killed:
        train(data, tmp_path / "run", at=6, **keys)
    losses = train(data, tmp_path / "run", resume=True, **{**keys, "SEED": 77})
    expected = killed.value.losses
    assert list(losses) == [4, 5, 6, 7]
    assert losses[4] == pytest.approx(expected[4], rel=1e-5)
    assert losses[5] == pytest.approx(expected[5], rel=1e-3)
    assert expected[3] != pytest.approx(expected[4], rel=1e-2), "steps differ by more than the tolerance"


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_an_export_from_the_gpu_is_that_from_the_cpu(tmp_path, device, form):
    if form == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    size = (72, 120)  # that images are resized to: files and model then see the same pixels
    keys = {
        "INPUT__MIN_SIZE_TEST": size[0],
        "INPUT__MAX_SIZE_TEST": size[1],
        "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.02,
    }
    trainer = make_trainer(device, None, **ALL_BOXES, **keys)
    with torch.no_grad():  # new weights give all boxes the same score
        for p in trainer.model.student.roi_heads.box_predictor.cls_score.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(3)).to(p) * 0.4)
    run(trainer)
    trainer.model.update_teacher()
    detector = single_detector(trainer.model, "teacher").eval()
    cfg = tiny_cfg(MODEL__DEVICE=device, **NARROW, **ALL_BOXES, **keys)
    write, predictor = {"onnx": (write_onnx, OnnxPredictor), "torchscript": (write_torchscript, TorchScriptPredictor)}[
        form
    ]
    files = {}
    for name, model in (("gpu", detector), ("cpu", copy.deepcopy(detector).cpu())):
        write(Traceable.of(cfg, model), describe(cfg, None, None, OPSET if form == "onnx" else None), tmp_path / name)
        files[name] = predictor(tmp_path / name, 0.02)
    assert all(p.device.type == torch.device(device).type for p in detector.parameters()), "left where it was"
    for seed in range(3):
        rgb = noise(*size, seed=seed)
        found = {name: {"instances": Detections(*file(rgb.numpy())["instances"])} for name, file in files.items()}
        result = compare(found["cpu"], found["gpu"])
        assert result.equal and result.count > 5, str(result)
        with torch.no_grad():
            own = detector([{"image": rgb.permute(2, 0, 1).flip(0), "height": size[0], "width": size[1]}])[0]
        own = {"instances": Detections.of_instances(own["instances"].to("cpu"))}
        # convolutions on a GPU are in TF32, with 11 significant bits
        result = compare(own, found["gpu"], box=0.5, score=0.01)
        assert len(result.only_first) <= 0.1 * result.count, str(result)
