"""Train methods side by side over several seeds: `mic-det ablation`."""

from mic_det_console import run

if __name__ == "__main__":
    run("ablation", "python tools/ablation.py")
