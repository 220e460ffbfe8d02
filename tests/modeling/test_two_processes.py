"""Two processes on the CPU: none hangs, all hold one model, and two halves of a batch make the whole.

One pair of processes does all of it: starting them costs more than what they do.

Which sums are equal: a process's loss is a mean over its part of the batch, and the processes' gradients are averaged.
That is the gradient of the whole batch for the terms whose mean is over images (RPN losses of L_S and L_M, alignment of
images), and for those over regions or pixels (RoI losses, alignment of regions, segmentation) where every image
has as many, as here.
"""

import copy
import itertools
import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from helpers.models import ALIGNMENT, ALL_BOXES, source_input, target_input, tiny_cfg
from helpers.processes import run_pair
from mic_det.engine.non_finite import CatchNonFinite, NonFiniteHandler
from mic_det.engine.train_loop import AccumulatingTrainer
from mic_det.errors import NonFiniteError
from mic_det.modeling.student_teacher import StudentTeacher
from mic_det.modeling.thresholds import AdaptiveThresholds

pytestmark = pytest.mark.slow

HEAD = dict(
    MODEL__MIC__STUDENT="BoxPanopticFPN", MODEL__SEM_SEG_HEAD__NAME="SemSegFPNHead", MODEL__SEM_SEG_HEAD__NUM_CLASSES=5,
    MODEL__SEM_SEG_HEAD__CONVS_DIM=16, MODEL__SEM_SEG_HEAD__NORM="",
)  # fmt: skip
ALL_PARTS = {**HEAD, **ALIGNMENT, "MODEL__MIC__SEM_SEG__MIX_WEIGHT": 1.0, "MODEL__MIC__MASK__DOMAINS": "both"}
# name -> (config, micro-batches a step, autocast)
RUNS = {
    "MIC": ({}, 1, None),
    "trained BatchNorm": ({"MODEL__RESNETS__NORM": "BN", "MODEL__BACKBONE__FREEZE_AT": 0}, 1, None),
    "all parts, accumulated, bfloat16": (ALL_PARTS, 2, torch.bfloat16),
}
# Nothing is drawn at random, and every image has 30 regions
FIXED = {
    **HEAD, **ALIGNMENT, **ALL_BOXES,
    "MODEL__MIC__STRONG_AUG__JITTER_PROB": 0.0, "MODEL__MIC__STRONG_AUG__BLUR_PROB": 0.0,
    "MODEL__MIC__ALIGNMENT__INSTANCE__DROPOUT": 0.0,
    "MODEL__RPN__BATCH_SIZE_PER_IMAGE": 100000, "MODEL__RPN__POSITIVE_FRACTION": 1.0, "MODEL__RPN__NMS_THRESH": 1.0,
    "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 30, "MODEL__ROI_HEADS__POSITIVE_FRACTION": 1.0,
    "MODEL__ROI_HEADS__PROPOSAL_APPEND_GT": False,
    # large enough to be near true boxes, so that these losses are not 0
    "MODEL__ANCHOR_GENERATOR__SIZES": [[16], [32], [64], [128], [256]], "MODEL__ROI_HEADS__IOU_THRESHOLDS": [0.2],
}  # fmt: skip


def source(seed, classes=(0, 2)):
    labels = torch.randint(0, 5, (64, 96), generator=torch.Generator().manual_seed(seed))
    return {**source_input(seed, classes=classes), "sem_seg": labels, "file_name": f"source_{seed}.png"}


def target(seed):
    return {**target_input(seed), "file_name": f"target_{seed}.png"}


def distributed(model):
    return DistributedDataParallel(CatchNonFinite(model), broadcast_buffers=False)


def make_trainer(model, batches, lr=1e-3, **kwargs):
    trained = [p for p in model.parameters() if p.requires_grad]
    model = distributed(model) if comm.get_world_size() > 1 else model
    return AccumulatingTrainer(model, iter(batches), torch.optim.SGD(trained, lr=lr, momentum=0.9), **kwargs)


# ---------------------------------------------------------------------------- what the two processes do


def worker(rank, folder):
    return {
        **{name: train(rank, *RUNS[name]) for name in RUNS},
        "halves": gradients([[source(rank), target(10 + rank)]]),
        "accumulated": gradients([[source(2 * i + rank), target(10 + 2 * i + rank)] for i in range(2)]),
        **non_finite(rank, folder),
        "overflow": overflow(rank),
        "statistics": statistics(rank),
        "thresholds": thresholds([rank]),
    }


def train(rank, settings, accumulate, dtype):
    """Three steps; process 1 never has a pseudo-box, and the first source image of process 0 no box."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg(MODEL__MIC__TEACHER__ALPHA=0.8, **ALL_BOXES, **settings)).train()
    if rank == 1:
        model.task("boxes").select["score_threshold"] = 1.0
    batches = (
        [source(10 * rank + i, classes=(0, 2) if rank or i else ()), target(20 * rank + i)] for i in itertools.count()
    )
    trainer = make_trainer(model, batches, accumulate_steps=accumulate, amp_dtype=dtype)
    torch.manual_seed(100 + rank)
    with EventStorage() as storage:
        for _ in range(3):
            trainer.run_step()
        boxes = [v for v, _ in storage.history("pseudo/num_boxes").values()]
    return {"state": model.state_dict(), "boxes": boxes}


def gradients(micro_batches):
    """Of one step from fixed weights."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg(**FIXED)).train()
    patches = (torch.arange(64)[:, None] // 16 + torch.arange(96) // 16) % 2
    model.hide_patches = lambda images: images.tensor.mul_(patches)
    trainer = make_trainer(model, micro_batches, lr=0.0, accumulate_steps=len(micro_batches))
    with EventStorage() as storage:
        trainer.run_step()
        found = {k: v for k, (v, _) in storage.latest().items() if "loss" in k or k == "pseudo/num_boxes"}
    return {"gradients": {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, "logged": found}


class Small(torch.nn.Module):
    """A detector's manners without its cost: batches of dicts in, a dict of losses out."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, batch):
        if any(x.get("raises") for x in batch):
            raise FloatingPointError("no finite proposal")
        out = self.layer(torch.stack([x["image"] for x in batch]))
        return {"loss_a": out.float().square().mean(), "loss_b": out.float().abs().mean()}


def small_batches(rank, *kinds):
    """One image a step; ``kinds`` tells of each step which process has a bad one, and how."""
    for i, kind in enumerate(kinds):
        image = torch.tensor([1.0 + rank, 2.0 + i])
        mine = kind is not None and kind[0] == rank
        if mine and kind[1] == "nan":
            image = image * math.nan
        if mine and kind[1] == "large":
            image = image * 1e4
        yield [{"image": image, "raises": mine and kind[1] == "raises", "file_name": f"rank{rank}_step{i}.png"}]


def non_finite(rank, folder):
    """Step 1: process 1 has a NaN loss; step 2: process 0 raises in its pass; both are skipped. Step 4 stops both."""
    torch.manual_seed(rank)  # DistributedDataParallel makes them equal
    model, check = Small().train(), NonFiniteHandler(folder, skip_steps=2)
    kinds = [None, (1, "nan"), (0, "raises"), None, (1, "nan"), None]
    trainer = make_trainer(model, small_batches(rank, *kinds), lr=0.01, finite=check)
    message, logged = "", []
    with EventStorage() as storage:
        try:
            for trainer.iter in range(6):
                storage.iter = trainer.iter
                trainer.run_step()
                logged.append(model.layer.weight.detach().clone())
        except NonFiniteError as e:
            message = str(e)
    return {"message": message, "weights": torch.stack([*logged, model.layer.weight.detach()])}


def overflow(rank):
    """Gradients of process 1 alone overflow in float16 at first, and later no more."""
    torch.manual_seed(0)
    trainer = make_trainer(
        Small().train(), small_batches(rank, (1, "large"), (1, "large"), None), lr=0.01, amp_dtype=torch.float16
    )
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    scales = []
    with EventStorage():
        for _ in range(3):
            trainer.run_step()
            scales.append(trainer.grad_scaler.get_scale())
    return {"scales": scales, "skipped": trainer.finite.skipped}


NORM_INPUTS = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [5.0, 50.0]], [[-2.0, 0.0], [0.0, 4.0], [8.0, -4.0]]])


def statistics(rank):
    """Two micro-batches and a step, twice, of one BatchNorm layer; only the first process asks for a checkpoint."""
    student = torch.nn.BatchNorm1d(2, momentum=0.5)
    model = StudentTeacher(student, copy.deepcopy(student), alpha=0.9).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    for _ in range(2):
        for factor in (1.0, 2.0):
            model.begin_step()
            student(NORM_INPUTS[rank] * factor).sum().backward()
        optimizer.step()
    if rank == 0:
        model.state_dict()
    model.update_teacher()
    return {part: getattr(model, part).state_dict() for part in ("student", "teacher")}


def thresholds(parts):
    """Three steps; each part of the images has other scores and true boxes."""
    model = AdaptiveThresholds(0.5, 3, momentum=0.5)
    for i in range(3):
        scores, classes, true = [], [], []
        for part in parts:
            g = torch.Generator().manual_seed(10 * i + part)
            scores.append(torch.rand(20 + part, generator=g))
            classes.append(torch.randint(0, 3, (20 + part,), generator=g))
            true.append(torch.randint(0, 3 - part, (4,), generator=g))
        model.observe(*map(torch.cat, (scores, classes, true)))
        model.step()
    return model.state_dict()


# ------------------------------------------------------------------------------------- what must hold


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return folder, *run_pair(worker, folder)


@pytest.mark.parametrize("name", RUNS)
def test_all_parameters_are_equal_on_all_ranks(pair, name):
    _, first, second = pair
    first, second = first[name], second[name]
    assert sum(first["boxes"]) > 0 and sum(second["boxes"]) == 0
    assert first["state"]["num_steps"] == 3
    assert all(torch.equal(v, second["state"][k]) for k, v in first["state"].items())
    bias = "roi_heads.box_predictor.cls_score.bias"
    assert not torch.equal(first["state"]["teacher." + bias], first["state"]["student." + bias])


def test_statistics_are_the_mean_over_the_processes(pair):
    """By hand: each pass takes half of its batch's mean and variance, each step the mean of both processes."""
    shared = [{"running_mean": torch.zeros(2), "running_var": torch.ones(2)}]
    for _ in range(2):
        own = []
        for x in NORM_INPUTS:
            mean, var = shared[-1]["running_mean"], shared[-1]["running_var"]
            for factor in (1.0, 2.0):
                mean, var = (mean + (x * factor).mean(dim=0)) / 2, (var + (x * factor).var(dim=0)) / 2
            own.append({"running_mean": mean, "running_var": var})
        shared.append({k: (own[0][k] + own[1][k]) / 2 for k in own[0]})
    for found in (x["statistics"] for x in pair[1:]):
        for k, v in shared[2].items():
            torch.testing.assert_close(found["student"][k], v)
            # a = 1/2 at the first step, 2/3 at the second
            first = (shared[0][k] + shared[1][k]) / 2
            torch.testing.assert_close(found["teacher"][k], first * 2 / 3 + v / 3)
    first, second = (x["statistics"]["teacher"] for x in pair[1:])
    assert all(torch.equal(v, second[k]) for k, v in first.items())


def test_thresholds_follow_the_detections_of_all_processes(pair):
    whole = thresholds([0, 1])
    for found in (x["thresholds"] for x in pair[1:]):
        assert all(torch.equal(v, found[k]) for k, v in whole.items())
    assert not torch.equal(whole["values"], thresholds([0])["values"])


def assert_same(found, expected):
    assert found["gradients"].keys() == expected["gradients"].keys() and len(found["gradients"]) > 50
    for name, value in expected["gradients"].items():
        scale = value.abs().max()
        assert (found["gradients"][name] - value).abs().max() <= 1e-4 * scale + 1e-8, name
    nonzero = [n for n, v in expected["gradients"].items() if v.abs().max() > 1e-9]
    # but for domain classifiers of levels that no region is on
    assert len(nonzero) > 0.8 * len(expected["gradients"]), "the sums are not equal because all is 0"


@pytest.fixture(scope="module")
def whole():
    """What one process makes of all four images of each domain, and of the first two."""
    return {n: gradients([[*map(source, range(n)), *(target(10 + i) for i in range(n))]]) for n in (2, 4)}


def test_two_half_batches_make_the_whole(pair, whole):
    _, first, second = pair
    assert_same(first["halves"], whole[2])
    assert_same(second["halves"], whole[2])
    expected = {k: v for k, v in whole[2]["logged"].items() if "loss" in k}
    assert len(expected) == 12 and min(expected.values()) > 0, expected
    for name, value in expected.items():
        assert first["halves"]["logged"][name] == pytest.approx(value, rel=1e-5), name


def test_four_quarters_on_two_processes_make_the_whole(pair, whole):
    _, first, second = pair
    assert_same(first["accumulated"], whole[4])
    assert_same(second["accumulated"], whole[4])


def test_micro_batches_make_the_whole(whole):
    assert_same(gradients([[source(i), target(10 + i)] for i in range(2)]), whole[2])


def test_all_processes_skip_and_stop_where_one_has_bad_numbers(pair):
    folder, first, second = pair
    assert first["message"] == second["message"]
    assert "iteration 4: loss_a is nan, loss_b is nan; images: rank1_step4.png." in first["message"]
    weights = first["weights"]
    assert torch.equal(weights, second["weights"]) and weights.isfinite().all()
    moved = [not torch.equal(a, b) for a, b in zip(weights[:-1], weights[1:])]
    assert moved == [False, False, True, False], "of steps 1, 2, 3 and the last"
    names = sorted(p.name for p in (folder / "non_finite").iterdir())
    assert names == [f"iteration_000000{i}_rank{r}.pth" for i, r in ((1, 1), (2, 0), (4, 1))]
    assert torch.load(folder / "non_finite" / names[1], weights_only=True)["reason"] == "no finite proposal"


def test_an_overflow_of_one_process_lowers_the_scale_of_both(pair):
    _, first, second = pair
    assert first["overflow"] == second["overflow"]
    assert first["overflow"]["skipped"] == 0
    assert first["overflow"]["scales"] == [2.0**11, 2.0**10, 2.0**10]
