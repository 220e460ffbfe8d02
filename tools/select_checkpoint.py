"""Choose a checkpoint without target labels: `mic-det select`."""

from mic_det_console import run

if __name__ == "__main__":
    run("select", "python tools/select_checkpoint.py")
