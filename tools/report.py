"""Make one HTML file about runs: `mic-det report`."""

from mic_det_console import run

if __name__ == "__main__":
    run("report", "python tools/report.py")
