"""SOLVER.SEQUENTIAL_BACKWARD in two processes: the gradient is the mean over processes and parts."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from helpers.processes import run_pair
from mic_det.engine.train_loop import AccumulatingTrainer

pytestmark = pytest.mark.slow

LR = 0.1


class TwoHeads(nn.Module):
    """The second part does not use the first head, as L_M does not use the source's box regression."""

    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 1), nn.Linear(6, 1)

    def forward(self, batch):
        raise AssertionError("a sequential trainer asks for parts")

    def losses_in_parts(self, batch):
        yield {"first": self.first(self.body(batch[0]).tanh()).square().mean()}
        yield {"second": self.second(self.body(batch[1]).tanh()).abs().mean()}


def make_model():
    torch.manual_seed(0)
    return TwoHeads()


def micro_batches(rank):
    generator = torch.Generator().manual_seed(rank)
    return [(torch.randn(3, 4, generator=generator), torch.randn(2, 4, generator=generator)) for _ in range(2)]


def worker(rank, folder):
    model = make_model()
    ddp = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    trainer = AccumulatingTrainer(
        ddp, micro_batches(rank), optimizer, accumulate_steps=2, sequential_backward=True
    )  # fmt: skip
    with EventStorage():
        trainer.iter = 0
        trainer.run_step()
    return model.state_dict()


def test_gradients_are_the_mean_over_processes_and_micro_batches(tmp_path):
    first, second = run_pair(worker, tmp_path)
    model = make_model()
    loss = sum(v for r in (0, 1) for b in micro_batches(r) for part in model.losses_in_parts(b) for v in part.values())
    (loss / 4).backward()
    for name, p in model.named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert p.grad.abs().max() > 1e-3
        torch.testing.assert_close(first[name], (p - LR * p.grad).detach(), rtol=1e-5, atol=1e-7)
