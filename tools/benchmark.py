"""Measure what a step costs: `mic-det benchmark`."""

from mic_det_console import run

if __name__ == "__main__":
    run("benchmark", "python tools/benchmark.py")
