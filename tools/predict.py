"""Find objects in images, folders and videos: `mic-det predict`."""

from mic_det_console import run

if __name__ == "__main__":
    run("predict", "python tools/predict.py")
