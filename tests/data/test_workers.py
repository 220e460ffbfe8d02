"""Worker processes of a loader that die or never answer: one error that says what to do."""

import itertools
import os
import resource
import signal
import time

import pytest
import torch
from detectron2.data.samplers import TrainingSampler

from mic_det.data.loader import TwoDomainLoader
from mic_det.errors import DataError
from mic_det.utils.parallel import run_parallel

pytestmark = pytest.mark.slow


def hang(d):
    time.sleep(1000)


def die(d):
    os.kill(os.getpid(), signal.SIGKILL)


def find_shared_memory_full(d):
    """A limit on the size of files stands for a small /dev/shm: the system refuses to make the image's file there."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    return torch.zeros(1_000_000)


def fail(d):
    raise RuntimeError("of another kind")


def first_batch(mapper, timeout=1.0, workers=1):
    dicts = [{"file_name": str(i), "width": 4, "height": 3} for i in range(4)]
    domain = dict(
        name="source", dicts=dicts, mapper=mapper, sampler=lambda: TrainingSampler(4), batch_size=2, grouping=True
    )
    return next(iter(TwoDomainLoader([domain], 0, workers, timeout)))


@pytest.mark.parametrize("mapper", [hang, find_shared_memory_full])
def test_workers_that_never_answer_end_the_run_with_what_to_do(mapper):
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        first_batch(mapper)
    assert time.monotonic() - start < 60
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "1 worker processes",
        "1 seconds",
        "DATALOADER.WORKER_TIMEOUT",
        "/dev/shm",
        "MiB free",
        "NUM_WORKERS 0",
    ):
        assert part in message


def test_a_worker_that_is_killed_ends_the_run_with_one_line():
    with pytest.raises(DataError) as caught:
        first_batch(die, timeout=60)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("a worker process (pid")
    assert "NUM_WORKERS 0" in message and "/dev/shm" in message


def test_other_errors_stay_as_they_are_and_slow_workers_are_waited_for():
    with pytest.raises(RuntimeError, match="of another kind"):
        first_batch(fail, timeout=60)
    with pytest.raises(RuntimeError, match="of another kind"):
        first_batch(fail, workers=0)
    assert len(first_batch(lambda d: time.sleep(0.7) or d, timeout=60)) == 2
    assert len(first_batch(lambda d: time.sleep(0.7) or d, timeout=0)) == 2, "0 = for ever"


def test_batches_are_those_of_torchs_loader():
    dicts = [{"file_name": str(i), "width": 4, "height": 3} for i in range(4)]
    domain = dict(
        name="source", dicts=dicts, mapper=lambda d: d["file_name"], batch_size=2, grouping=True,
        sampler=lambda: TrainingSampler(4, seed=3),
    )  # fmt: skip
    expected = list(itertools.islice(TrainingSampler(4, seed=3), 8))
    for workers in (0, 2):
        found = itertools.islice(TwoDomainLoader([domain], 0, workers, 30.0), 4)
        assert [int(x) for batch in found for x in batch] == expected


def _process(_):
    return os.getpid()


def test_a_few_jobs_are_done_before_a_process_would_have_started():
    assert run_parallel(_process, range(7)) == [os.getpid()] * 7
    assert os.getpid() not in run_parallel(_process, range(4), workers=2)
