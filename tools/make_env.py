"""Set up a virtual environment for mic_det. `make env` calls this program. It takes a second if the environment exists.

A working pair of torch and torchvision in the current interpreter is used as it is. Otherwise the tested pair is
installed. Example:
    python3.12 tools/make_env.py --venv .venv
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INPUTS = (
    "setup.py", "pyproject.toml", "constraints.txt", "tools/make_env.py",
    "mic_det/cli/install_detectron2/__init__.py", "mic_det/cli/install_detectron2/repack.py",
)  # fmt: skip
# File in the venv. "made": this script made it and may remove it. "busy": pip is writing. "key": it is complete.
STAMP = "mic_det_env.json"
VERSION = "{}.{}".format(*sys.version_info[:2])
BUILD_TOOL = "setuptools>=77.0.3,<81"  # it builds wheels alone, has pkg_resources, and torch requires it
NO_VERSION = ("No matching distribution found", "ResolutionImpossible", "conflicting dependencies")

# These texts run in other interpreters. The oldest torch is that of setup.py.
PAIR = """
import importlib.metadata, json, torch, torchvision
boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]])
assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]
pair = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
assert tuple(map(int, pair["torch"].split(".")[:2])) >= (2, 3)
print(json.dumps(pair))
"""
PRESENT = """
import importlib.util, sys
specs = [importlib.util.find_spec(name) for name in ("torch", "torchvision", "cv2", "pytest", "detectron2", "mic_det")]
assert all(specs) and specs[-1].origin.startswith(sys.argv[1])
"""
OUTSIDE = """
import importlib.metadata, json, sys
names = [d.metadata["Name"] for d in importlib.metadata.distributions()
         if not str(d.locate_file("")).startswith(sys.prefix + "/")]
print(json.dumps([name.lower().replace("_", "-") for name in names if name]))
"""
CV2 = """
import importlib.util
try:
    import cv2
except ImportError:
    print("damaged" if importlib.util.find_spec("cv2") else "absent")
"""


class EnvError(Exception):
    """An error with a message for the user: what is wrong, and what to do."""


def ask(python, code, *args):
    """Run `code` in the interpreter `python`, in an empty folder. Returns its last line, or None where it fails."""
    with tempfile.TemporaryDirectory() as empty:
        try:
            command = [str(python), "-c", code, *map(str, args)]
            done = subprocess.run(command, check=False, cwd=empty, capture_output=True, text=True)
        except OSError:  # no such file, or a dangling link
            return None
    return None if done.returncode else (done.stdout.strip().splitlines() or [""])[-1]


def working_pair(python):
    """{"torch": version, "torchvision": version} where the two work together and run an operator, else {}."""
    return json.loads(ask(python, PAIR) or "{}")


def key():
    """A text that changes with the files that define the environment, and with the Python version."""
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update(ROOT.joinpath(name).read_bytes())
    return f"{digest.hexdigest()} {sys.version.split()[0]}"


def read_stamp(venv):
    try:
        return dict(json.loads((venv / STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def write_stamp(venv, **state):
    (venv / STAMP).write_text(json.dumps(state), encoding="utf-8")


def usable(venv):
    """Whether the folder `venv` can be kept: a virtual environment of this Python version, with pip.

    Raises:
        EnvError: it cannot be kept, but this script did not make it, so it must not be removed.
    """
    if not venv.exists() or not any(venv.iterdir()):
        return False
    stamp = read_stamp(venv)
    version = ask(venv / "bin/python", "import sys, pip; print('%d.%d' % sys.version_info[:2])")
    if not (venv / "pyvenv.cfg").is_file():
        problem = "is not a virtual environment"
    elif stamp.get("busy"):
        problem = "is incomplete"  # pip would treat half-written files as installed
    elif version is None:
        problem = "does not work"
    elif version != VERSION:
        problem = f"is for Python {version}, not {VERSION}"
    else:
        print(f"continuing with {venv}", flush=True)
        return True
    if not stamp.get("made"):
        raise EnvError(f"{venv} was not made by make env, and {problem}: remove it, then run make env again.")
    print(f"{venv} {problem}: making it again", flush=True)
    return False


def create(venv):
    """Make a new virtual environment in `venv`. It can import a working torch pair of this interpreter."""
    python = sys.executable
    if Path(sys.prefix).resolve() == venv.resolve():  # this process runs in the environment that will be replaced
        python = sys._base_executable
    outer = python == sys.executable and sys.prefix != sys.base_prefix  # PYTHON belongs to another environment
    pair = working_pair(python)
    print(f"making {venv} with Python {sys.version.split()[0]}", flush=True)
    if venv.exists():
        shutil.rmtree(venv)
    venv.mkdir(parents=True)
    write_stamp(venv, made=True, busy=True)
    options = ["--system-site-packages"] if pair and not outer else []
    if subprocess.run([python, "-m", "venv", *options, str(venv)], check=False).returncode:
        raise EnvError(f"`python -m venv {venv}` failed, as printed above: correct this, then run make env again.")
    if pair and outer:  # --system-site-packages would give the packages of its base interpreter
        folders = [p for p in sys.path if p.endswith("-packages")]
        site = next(venv.glob("lib/python*/site-packages"))
        (site / "outer_environment.pth").write_text("\n".join(folders) + "\n", encoding="utf-8")


def pip_install(python, pins, *args):
    """Run pip install under the constraints `pins`. Returns its error output, "" after success."""
    env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_USER="0")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "constraints.txt")
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        command = [str(python), "-m", "pip", "install", "--constraint", str(file), *args]
        done = subprocess.run(command, check=False, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    return (done.stderr or "pip gave no reason") if done.returncode else ""


def install_packages(python, pair):
    """Install mic_det and its dependencies in the tested versions, or within setup.py's ranges where these don't exist.

    Raises:
        EnvError: pip failed.
    """
    pins = [f"{name}=={version}" for name, version in pair.items()]
    there = [*pair, *json.loads(ask(python, OUTSIDE) or "[]")]  # outside the venv: these stay
    lines = ROOT.joinpath("constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = [x for x in lines if "==" in x and x.split("==")[0].lower() not in there]
    # Builds use the venv's setuptools, so that setup.py finds an installed OpenCV, and nothing is downloaded twice.
    project = ["--no-build-isolation", "--use-pep517", "--editable", ".[dev]"] + (["--quiet"] if pair else [])
    if ask(python, CV2) == "damaged":
        project.append("opencv-python-headless")  # the installed one cannot be imported, often because libGL is missing
    errors = pip_install(python, [], "--quiet", BUILD_TOOL) or pip_install(python, tested + pins, *project)
    if any(text in errors for text in NO_VERSION):
        print("some tested versions do not exist for this Python: installing the newest allowed ones", flush=True)
        errors = pip_install(python, pins, *project)
    if errors:
        raise EnvError(
            "pip could not install the packages, as printed above. Check the network, pip's configuration and the "
            "free disk space,\nthen run make env again: it continues, and keeps earlier downloads."
        )


def fill(venv):
    """Install missing packages in `venv` and check that it works.

    Raises:
        EnvError: pip or the installer of Detectron2 failed, or the result does not work.
    """
    python, made = venv / "bin/python", read_stamp(venv).get("made", False)
    pair = working_pair(python)
    if pair:
        print(f"keeping torch {pair['torch']} and torchvision {pair['torchvision']}, which work here")
        print("installing the rest: at most 150 MB to download", flush=True)
    else:
        print("no working torch and torchvision here: installing them, 3.1 GB to download, 6 GB on disk", flush=True)
    write_stamp(venv, made=made, busy=made)
    try:
        install_packages(python, pair)
    except EnvError:
        write_stamp(venv, made=made)  # pip ended normally and cleaned up
        raise
    write_stamp(venv, made=made)
    if not working_pair(python):
        raise EnvError(f"torch and torchvision do not work together in {venv}: remove it and run make env again.")
    if subprocess.run([str(python), str(ROOT / "tools/install_detectron2.py")], check=False).returncode:
        raise EnvError("Detectron2 could not be installed, as printed above: correct this, then run make env again.")
    write_stamp(venv, made=made, key=key())
    print(f"{venv} is ready")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment (%(default)s)")
    venv = Path(os.path.abspath(parser.parse_args().venv))
    try:
        if sys.version_info < (3, 9):  # noqa: UP036 - `python3` may be an old version
            raise EnvError(f"Python {VERSION} is too old: use 3.9 to 3.12, as in `make env PYTHON=python3.12`.")
        complete = read_stamp(venv).get("key") == key()
        if not complete or ask(venv / "bin/python", PRESENT, f"{ROOT}{os.sep}") is None:
            if not usable(venv):
                create(venv)
            fill(venv)
    except KeyboardInterrupt:
        print("Interrupted. Run make env again to continue.", file=sys.stderr)
        return 130
    except (EnvError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
