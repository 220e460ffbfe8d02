"""Estimate AP50 without target labels: `mic-det estimate`."""

from mic_det_console import run

if __name__ == "__main__":
    run("estimate", "python tools/estimate_ap.py")
