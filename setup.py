"""What pyproject.toml cannot say: requirements that depend on what is installed, and the configs inside the wheel.

Detectron2 is not listed: it is not on PyPI under its own name, so pip could not resolve it.
"""

import importlib.util
import shutil
from importlib import metadata
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

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


class BuildWithConfigs(build_py):
    """Puts configs/ into the package that is built; an editable installation reads them where they are."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "mic_det" / "configs"
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build, with files that are gone since
            shutil.copytree(ROOT / "configs", target, ignore=shutil.ignore_patterns("__pycache__"))


setup(install_requires=opencv() + DEPENDENCIES, cmdclass={"build_py": BuildWithConfigs})
