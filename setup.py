"""Packaging of mic_det.

Detectron2 is not listed: it is not on PyPI under its own name, so pip could not resolve it. After
`pip install -e .`, run `python tools/install_detectron2.py`, which keeps an importable one; `make env` does both.
"""

import importlib.util
from importlib import metadata
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# Ranges, not pins: machines with GPUs come with a torch of their own. The versions tested are in constraints.txt.
# torch and torchvision stand last, so that pip refuses an impossible set before it fetches the large files.
DEPENDENCIES = [
    "setuptools<81",  # Detectron2 imports pkg_resources, which later ones lack
    "numpy>=1.22",
    "Pillow>=9.1",
    "pycocotools>=2.0.6",
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.9",
    "PyYAML>=5.4",
    "safetensors>=0.4",
    "yacs>=0.1.8",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
    "cloudpickle>=2.0",
    "tabulate>=0.8",
    "termcolor>=1.1",
    "tqdm>=4.50",
    "packaging>=20.0",
    "matplotlib>=3.4",
    "Jinja2>=3.0",
    "tensorboard>=2.8",
    "torch>=2.3",
    "torchvision>=0.18",
]

# COCO metrics of boxes in a tenth of the time, with pycocotools' numbers; used where it is installed.
FASTER_COCO_EVAL = 'faster-coco-eval>=1.8; python_version >= "3.10"'


def opencv():
    """The requirement for OpenCV: none where another build of it is installed.

    OpenCV has several names on PyPI which all write to the folder `cv2`, so a second one damages the first. pip's
    isolated builds hide what is installed: there, `pip install --no-build-isolation -e .` (as `make env` does) keeps
    an opencv-python.
    """
    try:
        metadata.version("opencv-python-headless")
    except metadata.PackageNotFoundError:
        if importlib.util.find_spec("cv2") is not None:
            return []
    return ["opencv-python-headless>=4.5"]  # headless: many machines lack libGL


def readme():
    """README.md, or an empty text where the file was not shipped."""
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


setup(
    name="mic_det",
    version="0.1.0",
    description="Masked Image Consistency for domain-adaptive object detection in Detectron2",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.9",
    packages=find_packages(include=["mic_det", "mic_det.*"]),
    package_data={"mic_det": ["py.typed", "experiments/templates/*.html"]},  # its annotations count for type checkers
    install_requires=opencv() + DEPENDENCIES,
    extras_require={
        "dev": ["pytest>=7.0", "pytest-xdist>=3.0", "hypothesis>=6.0", "ruff>=0.4", FASTER_COCO_EVAL],
        "fast": [FASTER_COCO_EVAL],
        "wandb": ["wandb>=0.16"],
        "mlflow": ["mlflow>=2.11"],
        "demo": [],  # the demo needs nothing more; the name is here so that asking for it works
    },
)
