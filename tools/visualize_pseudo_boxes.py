"""Draw pseudo-boxes, masked views and predictions: `mic-det visualize`."""

from mic_det_console import run

if __name__ == "__main__":
    run("visualize", "python tools/visualize_pseudo_boxes.py")
