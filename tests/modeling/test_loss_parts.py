"""Losses in parts: the gradients of the merged pass, in less memory; the pieces that both are made of."""

import gc

import pytest
import torch
from detectron2.modeling import build_model

from helpers.models import ALIGNMENT, ALL_BOXES, source_input, target_input, tiny_cfg
from mic_det.config import validate_mic_config
from mic_det.engine.train_loop import AccumulatingTrainer
from mic_det.errors import ConfigError

# all anchors and proposals are taken, so that only their order is left to chance
NO_SAMPLING = {
    "MODEL__RPN__BATCH_SIZE_PER_IMAGE": 100000, "MODEL__RPN__POSITIVE_FRACTION": 1.0,
    "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 1000, "MODEL__ROI_HEADS__POSITIVE_FRACTION": 1.0,
    "MODEL__MIC__ALIGNMENT__INSTANCE__DROPOUT": 0.0, "MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[1.0]],
}  # fmt: skip
PIXELS = {
    "MODEL__MIC__STUDENT": "BoxPanopticFPN", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 3,
    "MODEL__SEM_SEG_HEAD__CONVS_DIM": 32, "MODEL__SEM_SEG_HEAD__NORM": "GN", "MODEL__MIC__SEM_SEG__MIX_WEIGHT": 1.0,
}  # fmt: skip
SETTINGS = {
    "MIC": ({}, (2, 2)),
    "both domains masked": ({"MODEL__MIC__MASK__DOMAINS": "both"}, (2, 4)),
    "GroupNorm": ({"MODEL__RESNETS__NORM": "GN", "MODEL__FPN__NORM": "GN", "MODEL__FPN__OUT_CHANNELS": 32}, (2, 2)),
    "whole views aligned": (ALIGNMENT, (4, 2)),
    "regions as published, both masked": (
        {**ALIGNMENT, "MODEL__MIC__ALIGNMENT__INSTANCE__REGIONS": "published", "MODEL__MIC__MASK__DOMAINS": "both"},
        (4, 4),
    ),
    "boxes, pixels, ClassMix": (PIXELS, (2, 2, 2)),
}  # fmt: skip


def batch():
    """Two images a domain, of four sizes, so that padding differs between the parts."""
    sizes = [(64, 96), (50, 70), (64, 64), (33, 90)]
    images = [make(i, size) for i, (make, size) in enumerate(zip([source_input] * 2 + [target_input] * 2, sizes))]
    for x in images[:2]:
        cells = torch.randint(0, 3, x["image"].shape[-2:], generator=torch.Generator().manual_seed(1))
        x["sem_seg"] = cells
    return images


def make_model(**settings):
    torch.manual_seed(0)
    return build_model(tiny_cfg(**{**ALL_BOXES, **NO_SAMPLING, **settings})).train()


def gradients(model, parts):
    """Losses and gradients after a backward pass for each of ``parts``."""
    losses, passes = {}, []
    handle = model.student.backbone.register_forward_hook(lambda module, args, out: passes.append(len(args[0])))
    torch.manual_seed(7)
    for part in parts(batch()):
        sum(part.values()).backward()
        losses.update({k: v.detach() for k, v in part.items()})
    handle.remove()
    return losses, {k: p.grad for k, p in model.named_parameters() if p.requires_grad}, tuple(passes)


@pytest.mark.parametrize("name", SETTINGS)
def test_parts_have_the_losses_and_gradients_of_the_merged_pass(name):
    settings, images_a_pass = SETTINGS[name]
    merged, expected, passes = gradients((model := make_model(**settings)), lambda x: [model(x)])
    assert passes == (sum(images_a_pass),)
    losses, found, passes = gradients((model := make_model(**settings)), model.losses_in_parts)
    assert passes == images_a_pass
    assert losses.keys() == merged.keys()
    for k, v in merged.items():
        assert v > 0 or "source" not in k
        torch.testing.assert_close(losses[k], v, rtol=1e-5, atol=1e-7, msg=k)
    largest = max(g.norm() for g in expected.values() if g is not None)
    for k, g in expected.items():
        assert (found[k] is None) == (g is None), k
        if g is not None:
            assert (found[k] - g).norm() <= 1e-5 * g.norm() + 1e-7 * largest, k


class Kept:
    """A tensor that autograd keeps for a backward pass; counts the bytes of all that are alive, but for weights."""

    alive = peak = 0

    def __init__(self, tensor):
        self.tensor = tensor
        self.size = 0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel() * tensor.element_size()
        Kept.alive += self.size
        Kept.peak = max(Kept.peak, Kept.alive)

    def __del__(self):
        Kept.alive -= self.size


def test_activations_of_one_part_at_a_time_are_kept():
    peaks = []
    for parts in (lambda m: lambda x: [m(x)], lambda m: m.losses_in_parts):
        model = make_model()
        gc.collect()
        Kept.alive = Kept.peak = 0
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            gradients(model, parts(model))
        peaks.append(Kept.peak)
    assert 0 < peaks[1] < 0.65 * peaks[0]  # halves, and what does not depend on the number of images


class Batches:
    def __iter__(self):
        while True:
            yield batch()


@pytest.mark.parametrize("amp_dtype, tolerance", [(None, 1e-5), (torch.bfloat16, 0.02)])
def test_a_trainers_step_is_the_same(storage, amp_dtype, tolerance):
    weights, logged = [], []
    for sequential in (False, True):
        model = make_model()
        start = torch.cat([p.detach().flatten() for p in model.student.parameters()])
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        trainer = AccumulatingTrainer(
            model, Batches(), optimizer, accumulate_steps=2, amp_dtype=amp_dtype, sequential_backward=sequential
        )
        torch.manual_seed(3)
        trainer.iter = 0
        trainer.run_step()
        weights.append(torch.cat([p.detach().flatten() for p in model.student.parameters()]) - start)
        logged.append({k: v[0] for k, v in storage.latest().items() if "loss" in k})
    assert (weights[1] - weights[0]).norm() <= tolerance * weights[0].norm()
    assert logged[0].keys() == logged[1].keys() and {"total_loss", "masked/loss_cls"} <= logged[0].keys()
    for k, v in logged[0].items():
        assert logged[1][k] == pytest.approx(v, rel=max(tolerance, 1e-4)), k


def test_bfloat16_stays_near_float32():
    """What AMP costs in precision: the losses of a step, and the direction of its gradient."""
    torch.manual_seed(0)
    exact, expected, _ = gradients((model := make_model()), lambda x: [model(x)])
    model = make_model()

    def parts(x):
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(x)
        yield losses

    losses, found, _ = gradients(model, parts)
    total, other = sum(exact.values()), sum(losses.values())
    assert abs(other - total) < 0.05 * total and other != total
    a, b = (torch.cat([g.flatten() for g in x.values()]) for x in (expected, found))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.97


def test_trained_batch_norm_is_refused():
    cfg = tiny_cfg(SOLVER__SEQUENTIAL_BACKWARD=True)
    validate_mic_config(cfg)
    for key in ("MODEL.RESNETS.NORM", "MODEL.FPN.NORM"):
        own = cfg.clone()
        own.merge_from_list([key, "SyncBN"])
        with pytest.raises(ConfigError, match=f"SOLVER.SEQUENTIAL_BACKWARD is True, but {key}"):
            validate_mic_config(own)
