"""Install Detectron2 as pure Python: `mic-det install-detectron2`. It also works before mic_det is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "mic_det/cli"))  # mic_det itself needs torch
import install_detectron2

if __name__ == "__main__":
    sys.exit(install_detectron2.main())
