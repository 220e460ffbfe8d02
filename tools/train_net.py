"""Train or evaluate a detector: `mic-det train`."""

from mic_det_console import run

if __name__ == "__main__":
    run("train", "python tools/train_net.py")
