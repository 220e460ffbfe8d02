"""Boxes of a torchvision detector, as a file for MODEL.MIC.LABELLER: `mic-det label-with`."""

from mic_det_console import run

if __name__ == "__main__":
    run("label-with", "python tools/label_with.py")
