"""Set up a virtual environment for mic_det; `make env` calls this. Run again, it continues, or does nothing.

A pair of torch and torchvision that works in the interpreter at hand is reused, not replaced. Otherwise the tested pair
is installed. Example:
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
from contextlib import contextmanager
from importlib import util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INPUTS = ("setup.py", "constraints.txt", "tools/install_detectron2.py", "tools/make_env.py")
STAMP = "mic_det_env.json"  # in the venv: what it was made from
UNFINISHED = "mic_det_unfinished"  # in a venv that this script makes, until it is complete
BUSY, IDLE = "busy", "idle"  # what that file says: idle when no command was writing into the venv, so it can be kept
OLDEST_PYTHON, OLDEST_TORCH = (3, 9), (2, 3)  # as in setup.py
VERSION = "{}.{}".format(*sys.version_info[:2])
BUILD_TOOL = "setuptools>=77.0.3,<81"  # builds wheels by itself, still has pkg_resources, and is what torch asks for
NO_VERSION = ("No matching distribution found", "ResolutionImpossible", "conflicting dependencies")

PAIR = """
import importlib.metadata, json, torch, torchvision
boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]])
assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]
print(json.dumps({name: importlib.metadata.version(name) for name in ("torch", "torchvision")}))
"""
PRESENT = """
import importlib.util, sys
specs = [importlib.util.find_spec(name) for name in ("torch", "torchvision", "cv2", "pytest", "detectron2", "mic_det")]
sys.exit(not all(specs) or not specs[-1].origin.startswith(sys.argv[1]))
"""
OUTSIDE = """
import importlib.metadata, json, sys
names = [d.metadata["Name"] for d in importlib.metadata.distributions()
         if not str(d.locate_file("")).startswith(sys.prefix + "/")]
print(json.dumps([name.lower().replace("_", "-") for name in names if name]))
"""


class EnvError(Exception):
    """What went wrong and what to do, in a line or two for the user."""


def ask(python, code, *args):
    """Run `code` in the interpreter `python`, in an empty folder; returns (whether it succeeded, its last line)."""
    with tempfile.TemporaryDirectory() as empty:
        try:
            command = [str(python), "-c", code, *map(str, args)]
            done = subprocess.run(
                command, check=False, cwd=empty, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:  # no such file, or a dangling link
            return False, ""
    lines = done.stdout.strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def working_pair(python):
    """{"torch": version, "torchvision": version} where the two import together and run an operator, else None."""
    works, answer = ask(python, PAIR)
    pair = json.loads(answer) if works else None
    if pair and tuple(map(int, pair["torch"].split(".")[:2])) < OLDEST_TORCH:
        print(f"torch {pair['torch']} is there, but too old")
        return None
    return pair


def key():
    """What a finished environment depends on: the files that define it and the Python version."""
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update(ROOT.joinpath(name).read_bytes())
    return f"{digest.hexdigest()} {sys.version.split()[0]}"


def is_done(venv):
    """Whether `venv` was completed from the present files, and still holds what it should."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return stamp.get("key") == key() and ask(venv / "bin/python", PRESENT, f"{ROOT}{os.sep}")[0]


def check_interpreter():
    """Raise EnvError when this Python is too old or cannot make virtual environments."""
    if sys.version_info < OLDEST_PYTHON:
        raise EnvError(f"Python {VERSION} is too old: mic_det needs 3.9 to 3.12. Name one: make env PYTHON=python3.12")
    missing = [name for name in ("venv", "ensurepip") if util.find_spec(name) is None]
    if missing:
        raise EnvError(
            f"this Python {VERSION} lacks its module {' and '.join(missing)}, so it cannot make virtual environments.\n"
            f"On Debian or Ubuntu: apt install python{VERSION}-venv. Or name another: make env PYTHON=python3.12"
        )


def usable(venv):
    """Whether the folder `venv` can be kept: a virtual environment of this Python version, with pip.

    Raises:
        EnvError: it cannot, but this script did not make it, so that it must not be removed either.
    """
    if not venv.exists() or not any(venv.iterdir()):
        return False
    works, version = ask(venv / "bin/python", "import sys, pip; print('%d.%d' % sys.version_info[:2])")
    state = "does not work" if not works else "" if version == VERSION else f"is for Python {version}, not {VERSION}"
    marker = venv / UNFINISHED
    if not marker.exists() and not (venv / STAMP).exists():
        if state or not (venv / "pyvenv.cfg").is_file():
            problem = state or "is no virtual environment"
            raise EnvError(f"{venv} was not made by make env, and {problem}: remove it, then run make env again.")
    elif marker.exists() and marker.read_text(encoding="utf-8") != IDLE:
        state = "is incomplete"  # files half written, which pip would take for installed
    if state:
        print(f"{venv} {state}: making it anew", flush=True)
        return False
    print(f"continuing with {venv}", flush=True)
    return True


def create(venv):
    """Make the folder `venv` a fresh virtual environment, which sees a working torch pair of this interpreter."""
    python = sys.executable
    if Path(sys.prefix).resolve() == venv.resolve():  # run by the environment that is about to be replaced
        python = sys._base_executable
    outer = python == sys.executable and sys.prefix != sys.base_prefix  # PYTHON is that of another environment
    pair = working_pair(python)
    print(f"making {venv} with Python {sys.version.split()[0]}", flush=True)
    if venv.exists():
        shutil.rmtree(venv)
    venv.mkdir(parents=True)
    (venv / UNFINISHED).write_text(BUSY, encoding="utf-8")
    options = ["--system-site-packages"] if pair and not outer else []
    if subprocess.run([python, "-m", "venv", *options, str(venv)], check=False).returncode:
        raise EnvError(f"`python -m venv {venv}` failed, as printed above; once that is repaired, run make env again.")
    if pair and outer:  # --system-site-packages would show the packages of the interpreter behind it instead
        folders = [p for p in sys.path if p.endswith("-packages")]
        site = next(venv.glob("lib/python*/site-packages"))
        (site / "outer_environment.pth").write_text("\n".join(folders) + "\n", encoding="utf-8")
    (venv / UNFINISHED).write_text(IDLE, encoding="utf-8")


def constraints(python, pair):
    """Lines for pip's --constraint: the versions of `pair`, and those tested of what is not outside the venv."""
    outside = json.loads(ask(python, OUTSIDE)[1] or "[]")
    lines = []
    for line in ROOT.joinpath("constraints.txt").read_text(encoding="utf-8").splitlines():
        name = line.split("==")[0].strip().lower()
        if name and not name.startswith("#") and name not in outside and name not in (pair or {}):
            lines.append(line)
    return lines + [f"{name}=={version}" for name, version in (pair or {}).items()]


def pip_install(python, pins, *args):
    """Run pip install under `pins`, showing its output; returns what it printed as errors, or None after success."""
    env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_USER="0")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "constraints.txt")
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        command = [str(python), "-m", "pip", "install", "--constraint", str(file), *args]
        errors = []
        with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                sys.stderr.write(line)
                errors.append(line)
    return ("".join(errors) or "pip gave no reason") if process.returncode else None


def install_packages(python, pair):
    """Install mic_det and its dependencies in the tested versions, or in setup.py's ranges where these don't exist.

    Raises:
        EnvError: pip failed.
    """
    # Builds use the venv's setuptools: setup.py then sees an OpenCV that is there, and nothing is fetched twice.
    project = ["--no-build-isolation", "--use-pep517", "--editable", ".[dev]"] + (["--quiet"] if pair else [])
    if ask(python, "import importlib.util as u; assert u.find_spec('cv2')")[0] and not ask(python, "import cv2")[0]:
        project.append("opencv-python-headless")  # there is one that cannot be imported, often for lack of libGL
    errors = pip_install(python, [], "--quiet", BUILD_TOOL)
    errors = errors or pip_install(python, constraints(python, pair), *project)
    if errors and any(text in errors for text in NO_VERSION) and "from versions: none" not in errors:
        print("not all tested versions exist for this Python: taking the newest that setup.py allows", flush=True)
        errors = pip_install(python, [f"{name}=={version}" for name, version in (pair or {}).items()], *project)
    if errors:
        raise EnvError(
            "pip could not install the packages, as printed above. Check the network, pip's configuration and the "
            "free disk space,\nthen run make env again: it continues, with what was downloaded already."
        )


def announce(venv, pair):
    """Say what will be installed, and how large that is."""
    if pair:
        print(f"keeping torch {pair['torch']} and torchvision {pair['torchvision']}, which work here")
        print("installing the rest: at most 150 MB to download", flush=True)
        return
    print("no working torch and torchvision here: installing them, 3.1 GB to download, 6 GB on disk", flush=True)
    free = shutil.disk_usage(venv).free / 1e9
    if free < 12:
        print(f"warning: only {free:.1f} GB are free here; downloading and unpacking take up to 12", file=sys.stderr)


@contextmanager
def busy(venv):
    """Mark `venv` as being written to, so that it is made anew should this be interrupted; not one made by hand."""
    marker = venv / UNFINISHED
    if not marker.exists() and not (venv / STAMP).exists():
        yield
        return
    marker.write_text(BUSY, encoding="utf-8")
    try:
        yield
    except EnvError:
        marker.write_text(IDLE, encoding="utf-8")  # pip ended by itself, and cleaned up
        raise
    marker.write_text(IDLE, encoding="utf-8")


def fill(venv):
    """Install what is missing in `venv` and check that it works.

    Raises:
        EnvError: pip or the installer of Detectron2 failed, or what was installed does not work.
    """
    python = venv / "bin/python"
    pair = working_pair(python)
    announce(venv, pair)
    with busy(venv):
        install_packages(python, pair)
    pair = working_pair(python)
    if pair is None:
        raise EnvError(f"torch and torchvision do not work together in {venv}: remove it and run make env again.")
    if subprocess.run([str(python), str(ROOT / "tools/install_detectron2.py")], check=False).returncode:
        raise EnvError("Detectron2 is missing, see above; make env continues from there.")
    (venv / STAMP).write_text(json.dumps({"key": key(), **pair}), encoding="utf-8")
    (venv / UNFINISHED).unlink(missing_ok=True)
    print(f"{venv} is ready")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment (%(default)s)")
    venv = Path(os.path.abspath(parser.parse_args().venv))
    try:
        check_interpreter()
        if not is_done(venv):
            if not usable(venv):
                create(venv)
            fill(venv)
    except KeyboardInterrupt:
        print("interrupted; make env continues from here", file=sys.stderr)
        return 130
    except (EnvError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
