"""Check the data sets of a config before training: `mic-det check`."""

from mic_det_console import run

if __name__ == "__main__":
    run("check", "python datasets/check.py")
