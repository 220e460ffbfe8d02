"""Hide parts of images and see what models still find: `mic-det context`."""

from mic_det_console import run

if __name__ == "__main__":
    run("context", "python tools/show_context.py")
