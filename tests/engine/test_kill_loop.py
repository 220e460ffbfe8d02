"""tools/train_net.py, killed, told to stop and out of disk: what it leaves, and how it goes on."""

import json
import os
import random
import signal
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.data import write_config
from helpers.fork import ForkServer
from helpers.resume import CLOCK, MIC, PANOPTIC, metrics, run_config, same, saved

pytestmark = pytest.mark.slow

# what is killed -> how often. MIC_KILLS=28 kills each longer; counts are rounded up to whole rounds of MOMENTS
MOMENTS = ("start", "step", "write", "term")
KILLS = {"MIC and SADA": 8, "panoptic": 4, "two processes": 4}
JOBS = {"MIC and SADA": {}, "panoptic": PANOPTIC, "two processes": {}}
CASES = {
    name: len(MOMENTS) * -(-int(os.environ.get("MIC_KILLS", kills)) // len(MOMENTS)) for name, kills in KILLS.items()
}
SPARE = 9  # steps beyond the kills: lives take a step or two, most of those that are killed in writing none


@pytest.fixture(scope="module")
def server():
    server = ForkServer()
    yield server
    server.close()


class Run:
    """One run of train_net.py, in one or several processes."""

    def __init__(self, server, root, output, world=1, **keys):
        self.server, self.folder, self.log = server, output, output.with_suffix(".txt")
        self.world, self.lives, self.pids = world, 0, []
        keys = {**MIC, "SOLVER__ACCUMULATE_STEPS": 1, "SOLVER__CHECKPOINT_PERIOD": 1, **keys}
        self.config = write_config(output.with_suffix(".yaml"), run_config(root, output, **keys))

    def start(self, *opts, **kwargs):
        args, self.lives = ("--config-file", self.config, "--resume", *opts), self.lives + 1
        meeting = self.folder.with_suffix(f".{self.lives}.processes")
        groups = [[str(meeting), rank, self.world] for rank in range(self.world)] if self.world > 1 else [None]
        self.pids = [self.server.start(*args, log=self.log, group=group, **kwargs) for group in groups]

    @property
    def pid(self):
        return self.pids[0]

    def end(self, code=0):
        found = [self.server.wait(pid) for pid in self.pids]
        assert found == [code] * self.world, self.log.read_text()[-3000:]

    def kill(self):
        """SIGKILL for all, as a job scheduler or the kernel does it; each must be running."""
        for signum in (signal.SIGSTOP, signal.SIGKILL):  # none must see the other end
            for pid in self.pids:
                os.kill(pid, signum)
        self.end(-signal.SIGKILL)

    def wait_for(self, event):
        """Wait until ``event()`` is true; False where the process ended before."""
        while not event():
            if self.server.wait(self.pid, block=False) is not None:
                return False
            time.sleep(0.002)
        return True

    def last(self):
        """Which file is the last checkpoint: a new one at each save."""
        try:
            return os.stat(self.folder / "last_checkpoint").st_ino, (self.folder / "last_checkpoint").read_text()
        except FileNotFoundError:
            return None

    def steps(self):
        """Steps that checkpoints tell of."""
        return sorted(int(p.stem[6:]) for p in self.folder.glob("model_0*.pth"))


@pytest.mark.parametrize("job", CASES)
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(server, data, job):
    """SIGKILL at start, within steps and within the writing of a checkpoint, and SIGTERM; each life goes on."""
    kills, rng = CASES[job], random.Random(job)
    steps, world = kills + SPARE, 1 + (job == "two processes")
    keys = {**JOBS[job], "SOLVER__MAX_ITER": steps, "DATASETS__TEST": ["day"], "TEST__EVAL_PERIOD": 11,
            "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.001}  # fmt: skip
    name = job.replace(" ", "_")
    undisturbed = Run(server, data, data / f"{name}_undisturbed", world, **keys)
    undisturbed.start()
    undisturbed.end()

    run = Run(server, data, data / name, world, **keys, SOLVER__CHECKPOINT_KEEP=2)
    moments = [*MOMENTS] * (kills // len(MOMENTS))
    rng.shuffle(moments)
    begun, stopped = [], 0
    for moment in moments:
        if run.steps()[-1:] > [steps - SPARE]:  # so busy a machine that lives had many steps: no life may be the last
            moment = "write"
        before = run.last()
        run.start("DATALOADER.NUM_WORKERS", rng.choice([0, 0, 1]))
        if moment == "start":
            time.sleep(rng.uniform(0, 0.5))
        elif moment == "write":
            assert run.wait_for(lambda: list(run.folder.glob("model_*.tmp")))
        else:
            assert run.wait_for(lambda: run.last() != before)  # noqa: B023
            time.sleep(rng.uniform(0, 0.3))
        if moment == "term":
            for pid in run.pids:  # as schedulers do; an evaluation is left at once, which the others cannot do without
                os.kill(pid, signal.SIGTERM)
            run.end(128 + signal.SIGTERM)
            stopped += 1
        else:
            run.kill()
        begun.append(run.steps()[-1:])
        assert len(run.steps()) <= 3, "the newest two, and one more where the kill came before it was removed"
    assert begun == sorted(begun) and len({x[0] for x in begun if x}) >= kills // 3, "lives build on each other"
    assert stopped or "term" not in moments
    run.start()
    run.end()

    assert metrics(run.folder) == metrics(undisturbed.folder)
    ours, theirs = saved(run.folder), saved(undisturbed.folder)
    for state in (ours["trainer"], theirs["trainer"]):
        del state["hooks"]["RunWriter"]  # has times in it
    assert same(ours, theirs) and ours["iteration"] == steps - 1
    assert len(ours["trainer"]["hooks"]["ExactState"]["random"]) == world
    assert (run.folder / "last_checkpoint").read_text() == "model_final.pth"
    assert run.steps() == [steps - 2, steps - 1] and not list(run.folder.glob("*.tmp"))
    predictions = [json.loads((x.folder / "inference/day/coco_instances_results.json").read_text())
                   for x in (run, undisturbed)]  # fmt: skip
    assert predictions[0] == predictions[1] and predictions[0]
    evaluated = [r["iteration"] for r in metrics(run.folder) if "bbox/AP" in r]
    assert evaluated[0] == 10 and evaluated[-1] == steps, "Detectron2 writes the last one of each 20 steps"
    found, expected = scalars(run.folder), scalars(undisturbed.folder)
    assert found == expected and {"total_loss", "masked/loss_cls", "bbox/AP"} <= found.keys()
    assert all(len(dict(events)) == len(events) for events in found.values()), "each step once"
    assert "not exactly" not in run.log.read_text()


def scalars(folder):
    """All that the event files hold, repetitions too: tag -> (step, value) in the order of the files."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    reader.Reload()
    tags = set(reader.Tags()["scalars"]) - CLOCK
    return {tag: [(e.step, str(e.value)) for e in reader.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_exit_code(server, data, signum, code):
    """Sent to workers too, as a terminal and job schedulers do."""
    run = Run(server, data, data / f"stopped{code}", DATASETS__TEST=["day"], TEST__EVAL_PERIOD=11,
              SOLVER__MAX_ITER=30, SOLVER__CHECKPOINT_PERIOD=2)  # fmt: skip
    run.start("DATALOADER.NUM_WORKERS", 1)
    assert run.wait_for(run.last)
    for pid in [run.pid, *children(run.pid)]:
        os.kill(pid, signum)
    run.end(code)
    step, text = run.steps()[-1], (run.folder / "log.txt").read_text()
    assert f"Stopped by {signum.name} after step {step}. --resume" in text and "Traceback" not in run.log.read_text()
    # and on from there
    run.start("SOLVER.MAX_ITER", step + 2, "DATASETS.TEST", "()")
    run.end()
    assert f"Starting training from iteration {step + 1}" in (run.folder / "log.txt").read_text()


def children(pid):
    """Processes that a process has started (Linux)."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as f:
            found += map(int, f.read().split())
    return found


def test_a_full_disk_ends_with_one_line_and_leaves_the_checkpoints(server, data):
    """A limit on the size of a file stands for the disk: the system refuses to write in the same way."""
    run = Run(server, data, data / "full", SOLVER__MAX_ITER=2)
    run.start()
    run.end()
    before = {p.name: p.read_bytes() for p in run.folder.glob("*.pth")}
    run.start("SOLVER.MAX_ITER", 4, limit=200_000)  # a checkpoint has a megabyte
    run.end(1)
    last = run.log.read_text().strip().splitlines()[-1]
    assert last.startswith(f"error: cannot write {run.folder / 'model_0000002.pth'}") and "--resume" in last
    assert before == {p.name: p.read_bytes() for p in run.folder.glob("*.pth*")}
    run.start("SOLVER.MAX_ITER", 4)
    run.end()
    assert run.steps() == [0, 1, 2, 3]


def test_two_processes_stop_together_and_go_on_exactly(server, data):
    """The signal reaches one of them; each has random numbers of its own."""
    keys = {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN", "DATASETS__TARGET": [], "SOLVER__MAX_ITER": 40}
    straight, run = (Run(server, data, data / f"two_{name}", 2, **keys) for name in ("straight", "stopped"))
    straight.start()
    straight.end()
    run.start()
    assert run.wait_for(run.last)
    os.kill(run.pids[1], signal.SIGTERM)
    run.end(143)
    stopped_after = run.steps()[-1]
    assert stopped_after < 39, "stopped before the end, or this test proves nothing"
    run.start()
    run.end()
    log = (run.folder / "log.txt").read_text()
    assert f"Starting training from iteration {stopped_after + 1}" in log and "not exactly" not in log
    ours, theirs = (saved(x.folder) for x in (run, straight))
    assert same(ours["model"], theirs["model"])
    state = ours["trainer"]["hooks"]["ExactState"]
    assert same(state, theirs["trainer"]["hooks"]["ExactState"])
    assert len(state["random"]) == 2 and not same(*(x["torch"] for x in state["random"]))
    assert metrics(run.folder) == metrics(straight.folder)
