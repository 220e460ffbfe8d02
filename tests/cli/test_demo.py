"""``mic-det demo`` on a city of few small images: what is trained, from what, for how long, and what is shown."""

import contextlib
import io
import json
import os
import re
import shlex
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.data import forget_registered_sets, keep_loggers
from mic_det.cli import demo, program
from mic_det.cli.adapt.plan import Machine
from mic_det.engine.setup import get_mic_cfg
from mic_det.experiments import runs
from mic_det.experiments.run_files import read_run

pytestmark = pytest.mark.slow

STEPS = 2
SMALL = [
    "SOLVER.MAX_ITER", STEPS, "SOLVER.STEPS", "()", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", 64,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 50,
]  # fmt: skip
CITY = ["--train", "5", "--val", "3", "--width", "128", "--height", "64", "--workers", "1"]
SHARED = (demo.MIC, demo.CONTROL, demo.ORACLE)


@pytest.fixture(scope="module", autouse=True)
def in_this_process(tmp_path_factory):
    """The demo's commands run in this process, as PyTorch's start takes longer than they do; the city is small."""

    def run(command, tick=None, **kwargs):
        assert tuple(command[:3]) == runs.PROGRAM
        name, argv = command[3], command[4:] + (CITY if command[3] == "make-minicity" else [])
        with forget_registered_sets(), keep_loggers():
            return program.run(name, argv, f"mic-det {name}") or 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_run", run)
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path_factory.mktemp("data")))
        yield


class Call:
    """A call of the demo: its commands, the rows of its table, and all that it printed."""

    def __init__(self, *argv):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), forget_registered_sets(), keep_loggers():
            assert not program.run("demo", list(map(str, argv)), "mic-det demo")
        self.out = out.getvalue()
        self.commands = [shlex.split(x) for x in re.findall(r"^\$ mic-det (.+)$", self.out, re.MULTILINE)]
        rows = re.findall(r"^  (\S.+?) {2,}(\d+\.\d|nan)   (\+ )?(\d+) steps$", self.out, re.MULTILINE)
        self.table = {label: (value, bool(plus), int(steps)) for label, value, plus, steps in rows}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def default(output):
    return Call("--output", output, *SMALL)


@pytest.fixture(scope="module")
def full(output, default):
    """A second call, in the folder of the first one."""
    weights = {name: (output / name / "model_final.pth").read_bytes() for name in (demo.START, demo.MIC)}
    result = Call("--output", output, "--full", *SMALL)
    assert all((output / name / "model_final.pth").read_bytes() == x for name, x in weights.items()), (
        "not trained again"
    )
    return result


def setting(output, name, key):
    return read_run(output / name).setting(key)


def test_the_default_trains_the_start_and_mic_from_it(default, output):
    trained = [x[x.index("OUTPUT_DIR") + 1] for x in default.commands if x[0] == "train"]
    assert trained == [str(output / demo.START), str(output / demo.MIC)]
    assert [x[0] for x in default.commands] == ["make-minicity", "train", "train", "visualize"]
    assert setting(output, demo.MIC, "MODEL.WEIGHTS") == str(output / demo.START / "model_final.pth")
    assert [setting(output, x, "DATASETS.TARGET") for x in (demo.START, demo.MIC)] == [[], ["minicity_foggy_train"]]
    for name in (demo.START, demo.MIC):
        assert setting(output, name, "SOLVER.AMP.ENABLED") == Machine.found().bfloat16
        assert setting(output, name, "SOLVER.MAX_ITER") == read_run(output / name).last_step == STEPS


def test_the_table_is_what_the_trainings_evaluated(full, output):
    """Against the files that they were written to, read without mic_det."""
    expected = {}
    for label, name, metric in demo.ROWS:
        lines = [json.loads(x) for x in (output / name / "metrics.json").read_text().splitlines()]
        value = [x[metric] for x in lines if metric in x][-1]
        expected[label] = (f"{value:.1f}", name != demo.START, STEPS)
    assert full.table == expected and len(expected) == 5


def test_the_picture_has_before_after_and_truth_and_fits_a_screen(default, output):
    picture = cv2.imread(str(output / "pictures/before_after.jpg"))
    height, width = picture.shape[0] // 3, picture.shape[1] // 3
    assert picture.shape[0] <= 1000 and picture.shape[1] <= 1920 and picture.shape[1] == 3 * width
    root = Path(os.environ["DETECTRON2_DATASETS"]) / "minicity"
    truth = json.loads((root / "annotations/instances_foggy_0.02_val.json").read_text())
    for row, image in enumerate(sorted(truth["images"], key=lambda x: x["id"])):  # three, and all are shown
        street = cv2.imread(str(root / "leftImg8bit_foggy" / image["file_name"]))
        street = cv2.resize(street, (width, height - 36)).astype(int)
        for column in range(3):
            cell = picture[row * height + 36 : (row + 1) * height, column * width : (column + 1) * width]
            assert np.abs(cell - street).mean() < 20, (row, column)
    assert (output / "pictures/contact_sheet.png").is_file()
    end = default.out[default.out.index("AP50 on the miniature city") :]
    assert f"look at      {output / 'pictures/before_after.jpg'}" in end and "one seed" in end and "--full" in end


def test_full_adds_the_control_and_the_oracle_of_the_same_schedule(full, output):
    assert [Path(x[-1]).name for x in full.commands if x[0] == "train"] == [
        demo.START,
        demo.MIC,
        demo.CONTROL,
        demo.ORACLE,
    ]
    commands = [x[x.index("--resume") : x.index("OUTPUT_DIR")] for x in full.commands if x[0] == "train"]
    assert commands[1] == commands[2] == commands[3], "the same keys"
    assert "--full" not in full.out[full.out.index("AP50 on the miniature city") :]
    sets = {x: (setting(output, x, "DATASETS.TRAIN"), setting(output, x, "DATASETS.TARGET")) for x in SHARED}
    assert sets == {
        demo.MIC: (["minicity_clear_train"], ["minicity_foggy_train"]),
        demo.CONTROL: (["minicity_clear_train"], []),
        demo.ORACLE: (["minicity_clear_train", "minicity_foggy_train"], []),
    }


def test_schedules_are_those_of_the_configs_in_fewer_steps():
    def shares(cfg):
        return [Fraction(x, cfg.SOLVER.MAX_ITER) for x in (*cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS)]

    short = {name: get_mic_cfg(f"minicity/{name}.yaml", list(demo.SHORT)) for name in SHARED}
    short[demo.START] = get_mic_cfg(f"minicity/{demo.START}.yaml", list(demo.SHORT_START))
    for name, cfg in short.items():
        whole = get_mic_cfg(f"minicity/{name}.yaml")
        assert cfg.SOLVER.MAX_ITER < whole.SOLVER.MAX_ITER
        assert all(abs(a - b) < Fraction(1, cfg.SOLVER.MAX_ITER) for a, b in zip(shares(cfg), shares(whole)))
    # MIC, control and oracle differ in their images alone: clear, as many, and those with as many foggy ones
    schedules = [short[x].SOLVER.clone() for x in SHARED]
    assert [x.IMS_PER_BATCH for x in schedules] == [2, 2, 4] and schedules[0].IMS_PER_BATCH_TARGET == 2
    for x in schedules:
        x.defrost()
        x.IMS_PER_BATCH = 0
    assert schedules[0] == schedules[1] == schedules[2]


def test_quick_still_works_and_says_that_it_is_the_default(output, full, capsys):
    call = Call("--output", output, "--quick", *SMALL)
    assert [x[0] for x in call.commands] == ["make-minicity", "train", "train", "visualize"]
    assert call.table == full.table, "what an earlier call trained is shown"
    assert "--quick is the default now" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        Call("--quick", "--full")
    assert "not allowed with" in capsys.readouterr().err
