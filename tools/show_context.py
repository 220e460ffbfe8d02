"""Hide parts of images and measure what models still find: `mic-det context`."""

from mic_det_console import run

if __name__ == "__main__":
    run("context", "python tools/show_context.py")
