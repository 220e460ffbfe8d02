"""The packages that a bare machine with a GPU lacks: fetched as wheels, and installed there without a network."""

import contextlib
import io
import platform
import re
from pathlib import Path

from ..errors import ConfigError
from . import install_detectron2
from .install_detectron2 import probe, run_pip

DETECTRON2 = "detectron2"
# What images with PyTorch often lack: module -> distribution.
PACKAGES = {
    "pkg_resources": "setuptools",  # later ones than Detectron2 needs lack the module
    "pycocotools": "pycocotools",
    "faster_coco_eval": "faster-coco-eval",
    "yacs": "yacs",
    "omegaconf": "omegaconf",
    "hydra": "hydra-core",
    "termcolor": "termcolor",
    "tabulate": "tabulate",
    "cloudpickle": "cloudpickle",
    "portalocker": "portalocker",
    "fvcore": "fvcore",
    "iopath": "iopath",
    "antlr4": "antlr4-python3-runtime",
    DETECTRON2: DETECTRON2,
}
SOURCE_ONLY = ("fvcore", "iopath", "antlr4-python3-runtime")  # PyPI has no wheels of these; they are pure Python
VERSIONS = {"antlr4-python3-runtime": "==4.9.3", "setuptools": "<81"}  # that omegaconf and Detectron2 need
LIBRARIES = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")  # of pip's --platform
CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"  # of a checkout
MOST_MIB = 40  # machines are lent with little room for files


def fetch_wheels(folder, python, constraints=CONSTRAINTS):
    """Download or build the wheel of each package that the folder lacks, for Linux on this processor.

    Args:
        folder (path): made where it is missing.
        python (str): version of the bare machine, e.g. "3.12".
        constraints (path): pip's file of versions, used where it exists.

    Returns:
        str: what is in the folder.

    Raises:
        ConfigError: where pip fails, or the wheels are too large.
    """
    if not re.fullmatch(r"3\.[1-9]\d", python):  # faster-coco-eval has no wheels for 3.9
        raise ConfigError(f"--python {python}: give the version of the bare machine, from 3.10 on, such as 3.12.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pins = ["--constraint", str(constraints)] if constraints.is_file() else []
    missing = [x for x in PACKAGES.values() if x != DETECTRON2 and find_wheel(folder, x) is None]
    tag = "cp" + python.replace(".", "")
    systems = [f"{x}_{platform.machine()}" for x in LIBRARIES]
    options = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    options += [y for x in (tag, "abi3", "none") for y in ("--abi", x)]
    options += [y for x in systems for y in ("--platform", x)]
    binary = [x + VERSIONS.get(x, "") for x in missing if x not in SOURCE_ONLY]
    if binary:
        _pip("download", *pins, "--no-deps", *options, "--dest", str(folder), *binary)
    built = [x + VERSIONS.get(x, "") for x in missing if x in SOURCE_ONLY]
    if built:
        _pip("wheel", *pins, "--no-deps", "--wheel-dir", str(folder), *built)
    if find_wheel(folder, DETECTRON2) is None:
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            code = install_detectron2.main(["--build-only", str(folder)])
        if code:
            raise ConfigError(error.getvalue().strip().removeprefix("error: "))
    wheels = {name: find_wheel(folder, name) for name in PACKAGES.values()}
    if bound := [x.name for name, x in wheels.items() if name in SOURCE_ONLY and not x.name.endswith("-none-any.whl")]:
        raise ConfigError(f"{bound[0]} was built for this machine alone: get a wheel for every machine elsewhere.")
    size = sum(x.stat().st_size for x in wheels.values()) / 2**20
    if size > MOST_MIB:
        raise ConfigError(f"the wheels in {folder} have {size:.0f} MiB, more than {MOST_MIB}: remove the large ones.")
    return f"{folder}: {len(wheels)} wheels for Python {python}, {size:.1f} MiB"


def install_missing(folder, target):
    """Install the packages that this Python cannot import, from wheels alone, into a folder for PYTHONPATH.

    Args:
        folder (path): of wheels, see :func:`fetch_wheels`.
        target (path): made where it is missing.

    Returns:
        list[str]: file names of the installed wheels.

    Raises:
        ConfigError: where a wheel is missing, or a package cannot be imported in the end; names it.
    """
    if not Path(folder).is_dir():
        raise ConfigError(f"--wheels {folder}: there is no such folder. --fetch-wheels makes it.")
    Path(target).mkdir(parents=True, exist_ok=True)
    installed = []
    for modules in ([x for x in PACKAGES if x != DETECTRON2], [DETECTRON2]):  # which imports the others
        failed = probe(modules, target)["failed"]
        files = [find_wheel(folder, PACKAGES[x]) for x in failed]
        for module, file in zip(failed, files):
            if file is None:
                raise ConfigError(
                    f"{module} cannot be imported ({failed[module]}), and {folder} has no wheel of {PACKAGES[module]}: "
                    "fetch it with --fetch-wheels."
                )
        if files:
            _pip("install", "--no-index", "--no-deps", "--target", str(target), *map(str, files))
        if failed and (failed := probe(modules, target)["failed"]):
            module, error = next(iter(failed.items()))
            raise ConfigError(f"{module} cannot be imported after its installation from {folder}: {error}")
        installed += [x.name for x in files]
    return installed


def find_wheel(folder, distribution):
    """The wheel of a distribution in a folder, or None."""
    wanted = _normal(distribution)
    return next((x for x in sorted(Path(folder).glob("*.whl")) if _normal(x.name.split("-")[0]) == wanted), None)


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip(*args):
    done = run_pip(*args)
    if done.returncode:
        lines = [x for x in done.stdout.splitlines() if x.startswith("ERROR")] or done.stdout.splitlines()[-1:]
        raise ConfigError(f"pip {args[0]} failed: {' '.join(lines)[:500]}")
