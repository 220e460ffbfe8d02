"""tools/train_net.py, killed, told to stop and out of disk: what it leaves, and how it goes on."""

import json
import os
import random
import signal
import time

import pytest

from helpers.data import write_config
from helpers.fork import ForkServer
from helpers.resume import MIC, metrics, run_config, same, saved

pytestmark = pytest.mark.slow

KILLS = 3 * (int(os.environ.get("MIC_KILLS", "21")) // 3)  # a third of each kind; MIC_KILLS=60 runs longer
STEPS = KILLS + 9  # lives take a step or two, most of those that are killed in writing none
KEYS = {"SOLVER__MAX_ITER": STEPS, "DATASETS__TEST": ["day"], "TEST__EVAL_PERIOD": 11}


@pytest.fixture(scope="module")
def server():
    server = ForkServer()
    yield server
    server.close()


class Run:
    """One run of train_net.py, in one or several processes."""

    def __init__(self, server, root, output, **keys):
        self.server, self.folder, self.log = server, output, output.with_suffix(".txt")
        keys = {**MIC, "SOLVER__ACCUMULATE_STEPS": 1, "SOLVER__CHECKPOINT_PERIOD": 1, **keys}
        self.config = write_config(output.with_suffix(".yaml"), run_config(root, output, **keys))

    def start(self, *opts, **kwargs):
        self.pid = self.server.start("--config-file", self.config, "--resume", *opts, log=self.log, **kwargs)

    def end(self, code=0):
        found = self.server.wait(self.pid)
        assert found == code, self.log.read_text()[-3000:]

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


@pytest.fixture(scope="module")
def undisturbed(server, data):
    run = Run(server, data, data / "undisturbed", **KEYS)
    run.start()
    run.end()
    return run


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(server, data, undisturbed):
    """SIGKILL at start, within steps and within the writing of a checkpoint; each life goes on from the last."""
    run, rng = Run(server, data, data / "killed", **KEYS, SOLVER__CHECKPOINT_KEEP=2), random.Random(0)
    moments = ["start", "step", "write"] * (KILLS // 3)
    rng.shuffle(moments)
    begun = []
    for moment in moments:
        before = run.last()
        if run.steps()[-1:] > [STEPS - 9]:  # so busy a machine that lives had many steps: no life may be the last
            moment = "write"
        run.start("DATALOADER.NUM_WORKERS", rng.choice([0, 0, 1]))
        if moment == "start":
            time.sleep(rng.uniform(0, 0.5))
        elif moment == "write":
            assert run.wait_for(lambda: list(run.folder.glob("model_*.tmp")))
        else:
            assert run.wait_for(lambda: run.last() != before)  # noqa: B023
            time.sleep(rng.uniform(0, 0.3))
        os.kill(run.pid, signal.SIGKILL)
        assert server.wait(run.pid) == -signal.SIGKILL, "it was still running"
        begun.append(run.steps()[-1:])
        assert len(run.steps()) <= 3, "the newest two, and one more where the kill came before it was removed"
    assert begun == sorted(begun) and len({x[0] for x in begun if x}) >= KILLS // 3, "lives build on each other"
    run.start()
    run.end()

    assert metrics(run.folder) == metrics(undisturbed.folder)
    ours, theirs = saved(run.folder), saved(undisturbed.folder)
    for state in (ours["trainer"], theirs["trainer"]):
        del state["hooks"]["RunWriter"]  # has times in it
    assert same(ours, theirs) and ours["iteration"] == STEPS - 1
    assert (run.folder / "last_checkpoint").read_text() == "model_final.pth"
    assert run.steps() == [STEPS - 2, STEPS - 1] and not list(run.folder.glob("*.tmp"))
    predictions = [json.loads((x.folder / "inference/day/coco_instances_results.json").read_text())
                   for x in (run, undisturbed)]  # fmt: skip
    assert predictions[0] == predictions[1]
    assert [r["iteration"] for r in metrics(run.folder) if "bbox/AP" in r] == [*range(10, STEPS - 1, 11), STEPS]


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_exit_code(server, data, signum, code):
    """Sent to workers too, as a terminal and job schedulers do."""
    run = Run(server, data, data / f"stopped{code}", **{**KEYS, "SOLVER__CHECKPOINT_PERIOD": 2})
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
    keys = {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN", "DATASETS__TARGET": [], "SOLVER__MAX_ITER": 10}
    runs = {name: Run(server, data, data / f"two_{name}", **keys) for name in ("straight", "stopped")}

    def start(run, life):
        group = [str(data / f"{run.folder.name}_{life}")]
        pids = [server.start("--config-file", run.config, "--resume", log=f"{run.log}.{rank}", group=[*group, rank, 2])
                for rank in range(2)]  # fmt: skip
        run.pid = pids[0]
        return pids

    assert [server.wait(pid) for pid in start(runs["straight"], 1)] == [0, 0]
    pids = start(runs["stopped"], 1)
    assert runs["stopped"].wait_for(runs["stopped"].last)
    os.kill(pids[1], signal.SIGTERM)
    assert [server.wait(pid) for pid in pids] == [143, 143]
    stopped_after = runs["stopped"].steps()[-1]
    assert stopped_after < 9, "stopped before the end, or this test proves nothing"
    assert [server.wait(pid) for pid in start(runs["stopped"], 2)] == [0, 0]
    log = (runs["stopped"].folder / "log.txt").read_text()
    assert f"Starting training from iteration {stopped_after + 1}" in log and "not exactly" not in log
    ours, theirs = (saved(run.folder) for run in (runs["stopped"], runs["straight"]))
    assert same(ours["model"], theirs["model"])
    state = ours["trainer"]["hooks"]["ExactState"]
    assert same(state, theirs["trainer"]["hooks"]["ExactState"])
    assert len(state["random"]) == 2 and not same(*(x["torch"] for x in state["random"]))
    assert metrics(runs["stopped"].folder) == metrics(runs["straight"].folder)
