"""Install Detectron2 as pure Python, unless a Detectron2 can be imported already.

Detectron2 is not on PyPI under its own name, and upstream requires a compiler. A wheel on PyPI contains a complete copy
of it under an import prefix (the carrier). This command downloads the wheel, checks its hash and removes the prefix.
Then pip installs the result as `detectron2`, so that pip can list and uninstall it. ROIAlign and NMS then come from
torchvision. Only rotated boxes, deformable convolutions and the C++ COCO evaluation are missing.

Try upstream's way first: https://detectron2.readthedocs.io/tutorials/install.html. A compiled Detectron2 stays.

    {program}                     # keep or install, in this Python's environment
    {program} --wheel FILE        # without a network: FILE is the carrier, downloaded elsewhere
    {program} --build-only DIR    # write the repacked wheel, install nothing
"""

import argparse
import base64
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

COMMIT = "864913f0"
VERSION = f"0.6+mic.{COMMIT}"
DIST_INFO = f"detectron2-{VERSION}.dist-info"
UNFINISHED = "detectron2_unfinished"  # in site-packages while pip writes there
DEPENDENCIES = {  # what Detectron2 imports: module -> requirement
    "torch": "torch>=1.8",
    "torchvision": "torchvision",
    "pkg_resources": "setuptools<81",
    "PIL": "Pillow>=7.1",
    "cv2": None,  # several distributions have it, so the wheel's metadata names none
    "pycocotools": "pycocotools>=2.0.2",
    "fvcore": "fvcore>=0.1.5,<0.1.6",
    "iopath": "iopath>=0.1.7",
    "omegaconf": "omegaconf>=2.1",
    "hydra": "hydra-core>=1.1",
    "yacs": "yacs>=0.1.8",
    "termcolor": "termcolor>=1.1",
    "tqdm": "tqdm>4.29.0",
    **{name: name for name in ("numpy", "matplotlib", "cloudpickle", "tabulate", "tensorboard", "packaging")},
}
METADATA = f"""Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2 as pure Python, without its compiled operators
Home-page: https://github.com/facebookresearch/detectron2
License: Apache-2.0
License-File: LICENSE
License-File: NOTICE
Requires-Python: >=3.9
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: mic_det\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
NOTICE = """Detectron2 0.6, upstream commit {commit} (January 2024)
Copyright (c) Facebook, Inc. and its affiliates. Licensed under the Apache License, Version 2.0 (see LICENSE).
Upstream: https://github.com/facebookresearch/detectron2

The files in detectron2/ come from the folder {prefix}/detectron2/ of the PyPI wheel {requirement}
(sha256 {sha256}).
Changed: the import prefix "{prefix}.detectron2" in the .py files was turned back into "detectron2"; nothing else.
No other part of that wheel is contained, and no compiled module (detectron2._C).
Repacked by `mic-det install-detectron2`.
"""


class InstallError(Exception):
    """An error with a message for the user: what is wrong, and what to do."""


@dataclass(frozen=True)
class Carrier:
    """The wheel that contains Detectron2: pip's requirement, its hash, its import prefix and its dependencies."""

    requirement: str = "labgym==3.1.2"
    sha256: str = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
    prefix: str = "LabGym"
    modules: tuple = ("detectron2.engine", "detectron2.evaluation", "detectron2.model_zoo")  # must be importable
    dependencies: dict = field(default_factory=lambda: DEPENDENCIES)


PROBE = """
import importlib, importlib.util, json, sys
answer = {"location": None, "failed": {}}
try:
    spec = importlib.util.find_spec("detectron2")
    answer["location"] = spec and spec.origin
except Exception:
    pass
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as e:
        answer["failed"][name] = (type(e).__name__ + ": " + str(e)).strip().splitlines()[0]
answer["version"] = getattr(sys.modules.get("detectron2"), "__version__", "unknown")
print()
print(json.dumps(answer))
"""


def probe(modules, path=None):
    """Import `modules` in a new Python process and report the result.

    Args:
        modules: names to import.
        path: a folder that is searched before all others.

    Returns:
        dict with "failed" (module -> first line of the error), "location" and "version" of detectron2.
    """
    env = dict(os.environ, PYTHONWARNINGS="ignore")
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(path)] + [p for p in [os.environ.get("PYTHONPATH")] if p])
    with tempfile.TemporaryDirectory() as empty:  # a detectron2 in the current folder must not count as installed
        command = [sys.executable, "-c", PROBE, *modules]
        done = subprocess.run(command, check=False, cwd=empty, env=env, capture_output=True, text=True)
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):  # a compiled module that crashed, for example
        error = f"Python ended with exit code {done.returncode}"
        return {"location": None, "version": "unknown", "failed": dict.fromkeys(modules, error)}


def first_error(found):
    """The first error in what `probe` returned."""
    return next(iter(found["failed"].values()))


def check_dependencies(dependencies):
    """Raise InstallError when one of `dependencies` (module -> requirement) cannot be imported."""
    failed = []
    for name, error in probe(list(dependencies))["failed"].items():
        requirement = dependencies[name] or name
        failed.append(requirement if error.startswith("ModuleNotFoundError") else f"{requirement} ({error})")
    if failed:
        raise InstallError(
            f"Detectron2 needs packages that cannot be imported here: {', '.join(failed)}.\n"
            "Install them first (`make env`, or `pip install -e .`), then run this again."
        )


def check_replaceable(found, site):
    """Raise InstallError when this environment has a Detectron2 that this command did not install."""
    location = found["location"]
    if location is None or Path(sys.prefix) not in Path(location).parents:
        return  # none, or one outside a virtual environment, where pip leaves it alone
    if (site / UNFINISHED).exists() or list(site.glob("detectron2-*+mic.*.dist-info")):
        return  # an earlier run of this tool, perhaps interrupted
    raise InstallError(
        f"there is a Detectron2 at {location}, but importing it fails: {first_error(found)}.\n"
        "Repair it, or replace it by the pure-Python one with --force."
    )


def check_environment(site):
    """Raise InstallError when pip is missing or may not write to the folder `site`."""
    if run_pip("--version").returncode:
        raise InstallError(f"{sys.executable} has no pip: run `python -m ensurepip`, or use a virtual environment.")
    marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    if sys.prefix == sys.base_prefix and marker.exists():
        raise InstallError("this Python belongs to the operating system: use a virtual environment (`make env`).")
    try:
        tempfile.TemporaryFile(dir=site).close()
    except OSError as e:
        raise InstallError(f"cannot write to {site} ({e.strerror}): use your own environment (`make env`).") from e


def run_pip(*args):
    """Run this Python's pip; returns the CompletedProcess with its output as text."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *args]
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def fetch(carrier, folder):
    """Download the carrier's wheel to `folder` and return its path. pip checks its hash.

    Raises:
        InstallError: the hash differs, or pip cannot get the file.
    """
    requirements = Path(folder, "requirements.txt")
    requirements.write_text(f"{carrier.requirement} --hash=sha256:{carrier.sha256}\n", encoding="utf-8")
    print(f"downloading {carrier.requirement} (2 MB), which contains Detectron2", flush=True)
    options = ["--no-deps", "--ignore-requires-python", "--only-binary", ":all:", "--require-hashes", "--dest", folder]
    done = run_pip("download", *map(str, options), "-r", str(requirements))
    if done.returncode == 0:
        return next(Path(folder).glob("*.whl"))
    if "DO NOT MATCH THE HASHES" in done.stdout:
        raise InstallError(
            f"the package index's file of {carrier.requirement} does not have sha256 {carrier.sha256}: it is refused.\n"
            "Ask the administrator of the index, or download the file elsewhere and pass --wheel FILE."
        )
    errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR")] or ["no reason given"]
    raise InstallError(
        f"pip could not fetch {carrier.requirement} ({errors[-1]}): check the network and pip's configuration, or run\n"
        f"`pip download --no-deps --ignore-requires-python {carrier.requirement}` elsewhere, and pass --wheel FILE."
    )


def read_package(path, carrier):
    """Detectron2's files in the wheel at `path`, without the prefix: {name in the new wheel: bytes}.

    Raises:
        InstallError: the file is missing or has another hash, holds no Detectron2, or keeps the prefix somewhere.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise InstallError(f"cannot read {path} ({e.strerror}): --wheel takes {carrier.requirement}'s file.") from e
    digest = hashlib.sha256(data).hexdigest()
    if digest != carrier.sha256:
        raise InstallError(
            f"{path} has sha256 {digest}, not {carrier.sha256}: it is refused. "
            f"Get it with `pip download --no-deps --ignore-requires-python {carrier.requirement}`."
        )
    prefix, files = carrier.prefix.encode(), {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.startswith(f"{carrier.prefix}/detectron2/") and not name.endswith("/"):
                content = archive.read(name)
                if name.endswith(".py"):
                    content = content.replace(prefix + b".detectron2", b"detectron2")
                if prefix in content:
                    raise InstallError(f"{name} in {path} still names {carrier.prefix}: this wheel cannot be repacked.")
                files[name[len(carrier.prefix) + 1 :]] = content
    if "detectron2/__init__.py" not in files:
        raise InstallError(f"{path} has no {carrier.prefix}/detectron2/, so it is not the carrier of Detectron2.")
    return files


def read_licence():
    """The text of the Apache License 2.0, from mic_det's checkout or its wheel's metadata. mic_det has it, too."""
    path = Path(__file__).resolve().parents[2] / "LICENSE"
    if not path.is_file():
        files = importlib.metadata.files("mic_det") or ()
        path = next((f.locate() for f in files if f.name == "LICENSE"), path)
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise InstallError(f"mic_det's own LICENSE cannot be read, but the new wheel needs its text ({e}).") from e


def dist_info(carrier):
    """Metadata files of the new wheel, all but RECORD: {name: bytes}."""
    notice = NOTICE.format(commit=COMMIT, **vars(carrier))
    requirements = "".join(f"Requires-Dist: {r}\n" for r in carrier.dependencies.values() if r)
    licence = read_licence()
    texts = {"METADATA": f"{METADATA}{requirements}\n{notice}", "WHEEL": WHEEL, "LICENSE": licence, "NOTICE": notice}
    return {f"{DIST_INFO}/{name}": text.encode() for name, text in texts.items()}


def repack(path, folder, carrier):
    """Write Detectron2's own wheel, from the carrier's wheel at `path`, to `folder`; returns its path.

    The same input gives the same bytes everywhere: names are sorted, times are fixed, and nothing is compressed,
    because zlib's versions differ. The metadata comes last: pip ignores an interrupted installation.
    """
    files = dict([*sorted(read_package(path, carrier).items()), *sorted(dist_info(carrier).items())])
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files[f"{DIST_INFO}/RECORD"] = f"{record}{DIST_INFO}/RECORD,,\n".encode()
    target = Path(folder, f"detectron2-{VERSION}-py3-none-any.whl")
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, content)
    return target


def install(wheel, carrier, site, scratch):
    """Try `wheel` in a separate folder, install it with pip, and check that a new Python process imports it.

    Raises:
        InstallError: it cannot be imported, or pip refuses. The environment is then without it.
    """
    unpacked = Path(scratch, "unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    found = probe(carrier.modules, unpacked)
    if found["failed"]:
        raise InstallError(f"the repacked Detectron2 was not installed, as importing it failed: {first_error(found)}.")
    marker = site / UNFINISHED
    marker.touch()
    done = run_pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
    marker.unlink()
    if done.returncode:
        raise InstallError(f"pip could not install {wheel.name}:\n{done.stdout.strip()}")
    found = probe(carrier.modules)
    if found["failed"]:
        run_pip("uninstall", "--yes", "detectron2")
        raise InstallError(f"Detectron2 was removed again, as importing it failed: {first_error(found)}.")
    return found


def run(args, carrier):
    """Execute the command line.

    Raises:
        InstallError: gives the reason; the environment is unchanged.
    """
    site = Path(sysconfig.get_path("purelib"))
    if not args.build_only:
        found = probe(carrier.modules)
        if not found["failed"] and not args.force:
            print(f"Detectron2 {found['version']} is installed: {found['location']}")
            return
        check_dependencies(carrier.dependencies)
        if not args.force:
            check_replaceable(found, site)
        check_environment(site)
    with tempfile.TemporaryDirectory() as scratch:
        source = args.wheel or fetch(carrier, scratch)
        wheel = repack(source, args.build_only or Path(scratch, "wheel"), carrier)
        if args.build_only:
            print(f"wrote {wheel}")
            return
        found = install(wheel, carrier, site, scratch)
    print(f"installed Detectron2 {VERSION} (pure Python): {found['location']}")


def main(argv=None, carrier=Carrier(), prog="python tools/install_detectron2.py"):
    """Command line; returns the exit code, 1 after an error that was explained on stderr."""
    parser = argparse.ArgumentParser(
        prog.split("/")[-1], description=__doc__.replace("{program}", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="the carrier wheel, downloaded before")
    parser.add_argument("--build-only", type=Path, metavar="DIR", help="write the repacked wheel to DIR and stop")
    parser.add_argument("--force", action="store_true", help="install even where Detectron2 can be imported")
    try:
        run(parser.parse_args(argv), carrier)
    except (InstallError, OSError, zipfile.BadZipFile) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
