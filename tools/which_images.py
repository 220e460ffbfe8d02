"""Choose the target images that are most worth a label: `mic-det which-images`."""

from mic_det_console import run

if __name__ == "__main__":
    run("which-images", "python tools/which_images.py")
