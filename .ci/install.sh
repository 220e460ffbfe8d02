#!/usr/bin/env bash
# Builds the wheel, installs it into the Python at hand, and calls the program once. CI and the Dockerfile run this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python -m pip install "setuptools>=77.0.3,<81" build
python -m build --no-isolation --wheel
python -m pip install "$(ls dist/mic_det-*.whl)[fast,formats]"
cd "$(mktemp -d)"  # nothing of the checkout is in reach
mic-det install-detectron2
mic-det --version
mic-det make-minicity --train 4 --val 2
mic-det check --config-file minicity/mic.yaml
