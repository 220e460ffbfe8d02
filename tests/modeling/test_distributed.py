"""Two processes on the CPU: no hang where one has no pseudo-boxes, and one teacher without communication."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from conftest import ALIGNMENT, ALL_BOXES, source_input, target_input, tiny_cfg


def worker(rank, world_size, folder, settings):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = build_model(tiny_cfg(MODEL__MIC__TEACHER__ALPHA=0.8, **ALL_BOXES, **settings)).train()
    if rank == 1:
        model.select["score_threshold"] = 1.0  # no pseudo-box ever
    ddp = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    torch.manual_seed(100 + rank)
    found = []
    with EventStorage() as storage:
        for step in range(3):
            source = source_input(10 * rank + step, classes=(0, 2) if rank else ())
            losses = ddp([source, target_input(20 * rank + step)])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            found.append(storage.latest()["pseudo/num_boxes"][0])
    torch.save({"state": model.state_dict(), "found": found}, f"{folder}/rank{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.parametrize("settings", [{}, ALIGNMENT], ids=["MIC", "MIC + SADA"])
def test_all_parameters_are_equal_on_all_ranks(tmp_path, settings):
    mp.spawn(worker, (2, str(tmp_path), settings), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert sum(first["found"]) > 0 and sum(second["found"]) == 0
    assert first["state"]["num_steps"] == 3
    assert all(torch.equal(v, second["state"][k]) for k, v in first["state"].items())
    bias = "roi_heads.box_predictor.cls_score.bias"
    assert not torch.equal(first["state"]["teacher." + bias], first["state"]["student." + bias])
