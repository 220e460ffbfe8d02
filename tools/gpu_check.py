"""Measure and test mic_det on a GPU, in one call: `mic-det gpu-check`."""

from mic_det_console import run

if __name__ == "__main__":
    run("gpu-check", "python tools/gpu_check.py")
