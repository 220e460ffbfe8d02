"""Write a checkpoint and config for plain Detectron2: `mic-det export`."""

from mic_det_console import run

if __name__ == "__main__":
    run("export", "python tools/export.py")
