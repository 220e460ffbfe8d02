"""HRDA with all parts of DAFormer on two processes: none hangs, both hold one model, and images are shared out."""

import itertools
import os

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

from helpers.models import source_input, target_input, tiny_cfg
from helpers.processes import run_pair
from mic_det.data.rare_classes import rare_class_sampler
from mic_det.engine.non_finite import CatchNonFinite
from mic_det.engine.optimizer import build_fused_optimizer
from mic_det.engine.train_loop import AccumulatingTrainer
from mic_det.errors import DataError

pytestmark = pytest.mark.slow

SIZE = (128, 128)
CFG = {
    "MODEL__MIC__STUDENT": "SlidingSegmentor", "MODEL__BACKBONE__NAME": "build_hrda_backbone",
    "MODEL__HRDA__BACKBONE": "build_torchvision_backbone", "MODEL__HRDA__DETAIL_SIZE": (64, 64),
    "MODEL__SEM_SEG_HEAD__NAME": "HRDAHead", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 4,
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3", "res4", "res5"], "MODEL__SEM_SEG_HEAD__CONVS_DIM": 8,
    "MODEL__SEM_SEG_HEAD__NORM": "BN", "MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 255, "MODEL__BACKBONE__FREEZE_AT": 0,
    "MODEL__MIC__SEM_SEG__MIX_WEIGHT": 1.0, "MODEL__MIC__FEATURE_DISTANCE__WEIGHT": 0.1,
    "MODEL__MIC__FEATURE_DISTANCE__CLASSES": (1, 2, 3), "MODEL__MIC__SEM_SEG__PIXEL_THRESHOLD": 0.26,
    "SOLVER__OPTIMIZER": "AdamW", "SOLVER__BASE_LR": 1e-4, "SOLVER__HEAD_LR_FACTOR": 10.0,
}  # fmt: skip


def batches(rank):
    """Of process 1, no source image shows a thing."""
    for i in itertools.count():
        labels = torch.full(SIZE, 0 if rank else 1 + i % 3)
        labels[:30] = 255
        source = {**source_input(10 * rank + i, SIZE), "sem_seg": labels, "file_name": f"{rank}{i}.png"}
        yield [source, {**target_input(20 * rank + i, SIZE), "file_name": f"t{rank}{i}.png"}]


def train(rank, sequential):
    torch.manual_seed(0)
    cfg = tiny_cfg(**CFG)
    model = build_model(cfg).train()
    next(t for t in model.terms if t.name == "feature_distance").filled = True
    optimizer = build_fused_optimizer(cfg, model)
    trainer = AccumulatingTrainer(
        DistributedDataParallel(CatchNonFinite(model), broadcast_buffers=False), batches(rank), optimizer,
        sequential_backward=sequential,
    )  # fmt: skip
    torch.manual_seed(100 + rank)
    distances = []
    with EventStorage() as storage:
        for trainer.iter in range(3):
            storage.iter = trainer.iter
            trainer.run_step()
            if rank == 0:  # the mean of both processes
                distances.append(storage.latest()["source/loss_feature_distance"][0])
    return {"state": model.state_dict(), "distances": distances}


def drawn(folder):
    """The start of each process's stream, counted by the first one alone; or what both are told of a broken map."""
    os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
    dicts = [{"file_name": f"{i}.jpg", "sem_seg_file_name": f"{folder}/{i}.png"} for i in range(3)]
    cfg = tiny_cfg(**CFG, DATALOADER__RARE_CLASSES__MIN_PIXELS=5, DATALOADER__RARE_CLASSES__TEMPERATURE=0.5)
    torch.manual_seed(1)
    np.random.seed(comm.get_rank())  # the seed is the first process's
    stream = list(itertools.islice(rare_class_sampler(cfg, dicts)(), 30))
    try:
        rare_class_sampler(cfg, [*dicts, {"file_name": "x.jpg"}])
        return stream, ""
    except DataError as e:
        return stream, str(e)


def worker(rank, folder):
    return {"merged": train(rank, False), "sequential": train(rank, True), "drawn": drawn(folder)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for i in range(3):
        labels = np.zeros((20, 20), np.uint8)
        labels[:10] = 1 + i
        Image.fromarray(labels).save(folder / f"{i}.png")
    return run_pair(worker, folder)


@pytest.mark.parametrize("name", ["merged", "sequential"])
def test_both_hold_one_model_though_one_has_no_things(pair, name):
    first, second = (x[name] for x in pair)
    assert first["state"]["num_steps"] == 3 and len(first["distances"]) == 3
    assert all(torch.equal(v, second["state"][k]) for k, v in first["state"].items())
    weight = "sem_seg_head.scale_attention.predictor.weight"
    assert not torch.equal(first["state"]["teacher." + weight], first["state"]["student." + weight])
    # student and frozen copy are equal at first; the second process's part of the mean is 0
    assert 0 <= first["distances"][0] < first["distances"][2] / 10


def test_one_process_counts_for_both_and_they_take_turns(pair):
    (first, told), (second, told_too) = (x["drawn"] for x in pair)
    assert told == told_too and "image x.jpg has no label map" in told
    assert first != second and {i % 3 for i in first} == {i % 3 for i in second} == {0, 1, 2}
