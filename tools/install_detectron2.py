"""Install Detectron2 as pure Python: `mic-det install-detectron2`. It also works before mic_det is installed."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "mic_det/cli/install_detectron2.py"), run_name="__main__")
