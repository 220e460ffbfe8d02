"""Programs print no warnings of Detectron2's and torch's own code; those of mic_det and of users stay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.data import tiny_config, write_config, write_two_domains

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]

# all that is left out, then what must stay
PROBE = """
import logging, warnings
import mic_det
import detectron2.model_zoo, torch
from detectron2.layers import Conv2d

if __name__ == "__main__":
    torch.meshgrid(torch.arange(2), torch.arange(2))
    Conv2d(3, 3, 1)(torch.zeros(1, 3, 4, 4))
    logging.getLogger("torch.utils.cpp_extension").warning("No CUDA runtime is found, using CUDA_HOME='/usr'")
    warnings.warn("torch.meshgrid: in an upcoming release, of the user's own")
    warnings.warn("of the user", FutureWarning)
    logging.getLogger("torch.utils.cpp_extension").warning("another message")
    logging.getLogger("mic_det").warning("of mic_det")
"""
KEPT = ("of the user's own", "FutureWarning: of the user", "another message", "of mic_det")
LEFT_OUT = ("torch.jit.script", "torch/functional.py", "is_fx_tracing", "No CUDA runtime", "pkg_resources")


def start(*command, **env):
    env = {**{k: v for k, v in os.environ.items() if k not in ("PYTHONWARNINGS", "TORCH_LOGS")}, **env}
    env.update(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, command)], env=env, **pipes)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    (folder / "probe.py").write_text(PROBE)
    write_two_domains(folder)
    config = write_config(folder / "config.yaml", tiny_config(folder, folder / "output"))
    started = {
        "ordinary": start(folder / "probe.py"),
        "asked for": start("-W", "default", folder / "probe.py"),
        "check": start(ROOT / "datasets/check.py", "--config-file", config, "--workers", 2),
    }
    yield started
    for process in started.values():
        process.kill()
        process.wait()


def test_known_warnings_are_left_out_and_all_others_stay(processes):
    _, err = processes["ordinary"].communicate(timeout=600)
    assert processes["ordinary"].returncode == 0 and all(text in err for text in KEPT), err
    assert not [text for text in LEFT_OUT if text in err], err
    assert "site-packages" not in err, err


def test_warnings_that_a_user_asks_for_are_shown(processes):
    _, err = processes["asked for"].communicate(timeout=600)
    assert processes["asked for"].returncode == 0 and all(text in err for text in KEPT), err
    assert "torch/functional.py" in err and "FutureWarning: `torch.jit.script`" in err, err


def test_spawned_workers_are_quiet_too(processes):
    out, err = processes["check"].communicate(timeout=600)
    assert processes["check"].returncode == 0 and "no problems" in out, err
    lines = [x for x in err.replace("\r", "\n").splitlines() if x.strip()]
    assert lines and all("image/s" in x or "?image" in x or "%|" in x for x in lines), err
