"""Make labeller files from true boxes with controlled errors: `mic-det noisy-labels`."""

from mic_det_console import run

if __name__ == "__main__":
    run("noisy-labels", "python tools/make_noisy_labels.py")
