"""Show MIC on the miniature city, in the folder of the checkout: `mic-det demo`."""

import os
from pathlib import Path

from mic_det_console import run

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])
    run("demo", "python tools/demo.py")
