"""Test and measure mic_det on a GPU, in one call: `mic-det gpu-check`. It also works where mic_det is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mic_det_console import run  # noqa: E402

if __name__ == "__main__":
    run("gpu-check", "python tools/gpu_check.py")
