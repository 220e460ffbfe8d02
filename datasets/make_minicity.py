"""Make the miniature city: `mic-det make-minicity`."""

from mic_det_console import run

if __name__ == "__main__":
    run("make-minicity", "python datasets/make_minicity.py")
