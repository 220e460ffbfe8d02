"""The parts that look at the machine: its description, and the tests marked ``gpu``."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from ...utils.hardware import describe_hardware
from ..run import machine

ROOT = Path(__file__).resolve().parents[3]
TESTS_ON = "MIC_DET_GPU_TESTS_ON"  # see tests/gpu/conftest.py


def describe(settings, save):
    """The card, its memory and driver, and the versions."""
    found = {**machine(), "hardware": describe_hardware(), "cuda": torch.version.cuda}
    save(found)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
        found["cudnn"] = torch.backends.cudnn.version()
        found["tf32_convolutions"] = torch.backends.cudnn.allow_tf32
        found["tf32_matrix_products"] = torch.backends.cuda.matmul.allow_tf32
        torch.ones(1, device="cuda").item()  # fails here where the card cannot be used
        found["driver"] = _driver()
    save(found)


def _driver():
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()[0] if done.stdout.split() else None


class Outcomes:
    """A plugin of pytest that saves each test's outcome as soon as it is known."""

    def __init__(self, save):
        self.save, self.tests, self.messages = save, {}, {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            name = report.nodeid.split("/")[-1]
            self.tests[name] = report.outcome
            if report.failed:
                self.messages[name] = report.longreprtext[-1500:]
            self.store()

    def store(self):
        counts = {x: list(self.tests.values()).count(x) for x in ("passed", "failed", "skipped")}
        self.save({**counts, "tests": self.tests, "messages": self.messages})


def run_tests(settings, save):
    """The tests marked ``gpu``, in this process."""
    import pytest

    if not (ROOT / "tests/gpu").is_dir():
        sys.exit("the tests are in the checkout alone: start tools/gpu_check.py there")
    if settings.device != "cuda":
        os.environ[TESTS_ON] = settings.device
    outcomes = Outcomes(save)
    outcomes.store()
    arguments = [
        "-c",
        ROOT / "pytest.ini",
        "--rootdir",
        ROOT,
        "-p",
        "no:cacheprovider",
        "-m",
        "gpu",
        "-q",
        "--durations=5",
    ]
    pytest.main([*map(str, arguments), str(ROOT / "tests/gpu")], plugins=[outcomes])
    outcomes.store()  # failed tests are a result, and no failure of this part
