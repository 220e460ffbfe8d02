"""Presets called published: each key is the released run's, and reaches the model, the optimizer and the gradients."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torchvision.ops import roi_align

from helpers.models import ALIGNMENT, tiny_cfg
from mic_det.engine.setup import load_config
from mic_det.engine.trainer import MICTrainer
from mic_det.experiments.ablation import read_plan
from mic_det.modeling.domain_alignment import domain_weights
from mic_det.modeling.regions import Regions

CONFIGS = Path(__file__).parents[1] / "configs"
MINICITY, FOGGY = CONFIGS / "minicity", CONFIGS / "cityscapes_to_foggy"


def config(file, *opts):
    return load_config(str(file), ["MODEL.DEVICE", "cpu", *opts])


def preset(name, tmp_path):
    joined = tmp_path / "joined.yaml"
    joined.write_text(f"VERSION: 2\n_BASE_: ['{CONFIGS / '_methods' / name}.yaml']\n")
    return config(joined)


# ------------------------------------------------------------------------------------------- which model, which weight


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*/*_published.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_what_is_called_published_evaluates_the_student(file, tmp_path):
    if file.stem == "ablation_published":
        cells = [config(path) for path, _ in read_plan(file).cells.values()]
    else:
        cells = [preset(file.stem, tmp_path) if file.parent.name == "_methods" else config(file)]
    for cfg in cells:
        if cfg.MODEL.META_ARCHITECTURE == "MIC":
            assert cfg.MODEL.MIC.EVALUATE == "student"


@pytest.mark.parametrize(
    "file", [MINICITY / "mic.yaml", MINICITY / "mic_sada.yaml", FOGGY / "mic.yaml", FOGGY / "mic_sada.yaml"]
)
def test_our_own_configs_evaluate_the_teacher(file):
    assert config(file).MODEL.MIC.EVALUATE == "teacher"


def test_lambda_is_1():
    for file in (FOGGY / "mic.yaml", *FOGGY.glob("*mic*_published.yaml"), *MINICITY.glob("mic*_published.yaml")):
        assert config(file).MODEL.MIC.CONSISTENCY.WEIGHT == 1.0, file
    assert config(FOGGY / "sada_published.yaml").MODEL.MIC.CONSISTENCY.WEIGHT == 0.0


@pytest.mark.parametrize("folder, rows", [(FOGGY, 800), (MINICITY, 192)])
def test_patches_of_the_segmentation_are_a_sixteenth_of_the_short_side(folder, rows):
    """Published: 64 pixels of 1024 rows, 32 of 512."""
    cfg = config(folder / "semseg_mic.yaml")
    assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == (rows,)
    assert cfg.MODEL.MIC.SEM_SEG.MASK.BLOCK_SIZE == rows * 64 // 1024 == rows * 32 // 512


# ----------------------------------------------------------------------------- SADA's agreement of the two classifiers


@pytest.mark.parametrize("name, classifiers, factor", [("sada_published", 1.0, 0.1), ("sada", 0.1, 0.1)])
def test_gradients_of_the_agreement(name, classifiers, factor, tmp_path):
    """Against autograd through the formula without any reversal: mean |p_img pooled over the RoI - p_ins|."""
    a = preset(name, tmp_path).MODEL.MIC.ALIGNMENT
    keys = {f"MODEL__MIC__ALIGNMENT__{p}__{k}": a[p][k] for p in ("IMAGE", "INSTANCE", "AGREEMENT")
            for k in ("ENABLED", "WEIGHT", "GRL_WEIGHT")}  # fmt: skip
    cfg = tiny_cfg(**{**ALIGNMENT, **keys, "MODEL__MIC__ALIGNMENT__INSTANCE__DROPOUT": 0.0})
    alignment = MICTrainer.build_model(cfg).train().alignment
    maps = {k: torch.randn(2, 16, *s) for k, s in
            {"p2": (16, 24), "p3": (8, 12), "p4": (4, 6), "p5": (2, 3), "p6": (1, 2)}.items()}  # fmt: skip
    boxes = [Boxes([[4.0, 4, 40, 30], [50, 8, 90, 60]]), Boxes([[10.0, 12, 30, 50]])]  # all on level p2
    maps["p2"].requires_grad_()
    x = torch.randn(3, 16, requires_grad=True)
    weights = [
        *alignment.image_classifiers.levels["p2"].parameters(),
        *alignment.instance_classifiers.levels[0].parameters(),
    ]
    losses, _ = alignment([(64, 96)] * 2, maps, [False, True], Regions(boxes, x))
    found = torch.autograd.grad(losses["loss_consistency"], [maps["p2"], x, *weights])

    image = alignment.image_classifiers.levels["p2"](maps["p2"]).sigmoid()
    pooled = roi_align(image, [b.tensor for b in boxes], 1, spatial_scale=0.25, aligned=True).flatten()
    instance = alignment.instance_classifiers.levels[0](x).squeeze(1).sigmoid()
    loss = ((pooled - instance).abs() * domain_weights(torch.tensor([False, False, True]))).sum()
    plain = torch.autograd.grad(loss, [maps["p2"], x, *weights])
    # each part hands a gradient on at its own reversal weight: 0.025 for images and 0.1 for regions
    for got, expected, scale in zip(found, plain, [factor * 0.025, factor * 0.1, *[classifiers] * len(weights)]):
        assert expected.abs().max() > 0
        torch.testing.assert_close(got, expected * scale, rtol=1e-4, atol=1e-8)


# -------------------------------------------------------------------------------------------- the rest of the detector


@pytest.fixture(scope="module")
def published():
    """The published combination as the trainer builds it, with a narrow box head."""
    cfg = config(FOGGY / "mic_sada_published.yaml", "MODEL.ROI_BOX_HEAD.FC_DIM", 64)
    with EventStorage():
        return cfg, MICTrainer.build_model(cfg).train()


@pytest.mark.parametrize("file", sorted(FOGGY.glob("*_published.yaml")), ids=lambda p: p.stem)
def test_all_published_configs_have_the_released_detector(file):
    cfg = config(file)
    model, solver = cfg.MODEL, cfg.SOLVER
    values = [
        solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS, solver.WARMUP_ITERS, solver.WARMUP_FACTOR,
        model.ROI_HEADS.BATCH_SIZE_PER_IMAGE, model.RPN.BOUNDARY_THRESH, model.RPN.SMOOTH_L1_BETA,
        model.ROI_BOX_HEAD.SMOOTH_L1_BETA, model.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO, *model.PIXEL_MEAN,
    ]  # fmt: skip
    assert values == pytest.approx([2, 0, 500, 1 / 3, 256, 0, 1 / 9, 1, 2, 102.98, 115.95, 122.77], abs=5e-3)
    assert model.ROI_BOX_HEAD.POOLER_TYPE == "ROIAlign" and cfg.INPUT.FORMAT == "BGR"


def test_biases_learn_twice_as_fast_without_decay_after_the_published_warm_up(published):
    cfg, model = published
    optimizer = MICTrainer.build_optimizer(cfg, model)
    names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
    kinds = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            kinds.setdefault(names.pop(id(p)).endswith(".bias"), set()).add((group["lr"], group["weight_decay"]))
    assert not names and kinds == {True: {(0.005, 0.0)}, False: {(0.0025, 0.0001)}}
    scheduler = MICTrainer.build_lr_scheduler(cfg, optimizer)
    rates = {i: scheduler._multiplier(i / 60000) for i in (0, 250, 499, 500, 29999, 30000, 39999, 40000)}
    expected = [1 / 3, 2 / 3, (1 + 2 * 499 / 500) / 3, 1, 1, 0.1, 0.1, 0.01]
    assert list(rates.values()) == pytest.approx(expected, rel=1e-6)
    started = sorted({g["lr"] for g in optimizer.param_groups})  # the scheduler has set step 0
    assert started == pytest.approx([0.0025 / 3, 0.005 / 3], rel=1e-6)


def test_anchors_over_the_border_are_ignored(published):
    _, model = published
    rpn, size = model.student.proposal_generator, (64, 96)
    truth = Instances(size, gt_boxes=Boxes([[8.0, 8, 50, 44]]), gt_classes=torch.tensor([0]))
    shapes = [(-(-64 // s), -(-96 // s)) for s in (4, 8, 16, 32, 64)]
    anchors = rpn.anchor_generator([torch.zeros(1, 256, *s) for s in shapes])
    rpn_batch, rpn.batch_size_per_image = rpn.batch_size_per_image, 10**6  # all that may be sampled
    try:
        labels, _ = rpn.label_and_sample_anchors(anchors, [truth])
    finally:
        rpn.batch_size_per_image = rpn_batch
    b = Boxes.cat(anchors).tensor
    inside = (b[:, 0] >= 0) & (b[:, 1] >= 0) & (b[:, 2] < 96) & (b[:, 3] < 64)
    assert 0 < inside.sum() < len(b) and (labels[0][~inside] == -1).all() and (labels[0][inside] == 0).any()


def test_pooler_and_smooth_l1_by_hand(published):
    _, model = published
    heads = model.student.roi_heads
    ramp = torch.arange(24.0).expand(1, 1, 16, 24)  # the value at position x is x
    maps = [ramp, *(torch.zeros(1, 1, 16 // s, 24 // s) for s in (2, 4, 8))]
    pooled = heads.box_pooler(maps, [Boxes([[8.0, 8, 36, 36]])])
    # from 8 / 4 = 2 to 9 in seven bins: the mean of two samples a bin is its centre; no half pixel is taken off
    torch.testing.assert_close(pooled[0, 0, 0], torch.arange(7) + 2.5)
    assert model.alignment.regions_per_image == heads.batch_size_per_image == 256
    for part, beta in ((heads.box_predictor, 1.0), (model.student.proposal_generator, 1 / 9)):
        assert part.smooth_l1_beta == pytest.approx(beta)
    box, deltas = torch.tensor([[10.0, 10, 50, 50]]), torch.zeros(1, 32)
    deltas[0, 12] = 0.5  # dx of class 3, of weight 10
    loss = heads.box_predictor.box_reg_loss(box, box, deltas, torch.tensor([3]))
    assert loss.item() == pytest.approx(0.5 * 0.5**2)
