"""Set up a virtual environment for mic_det; `make env` calls this. Once it is complete, this takes a second.

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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INPUTS = ("setup.py", "pyproject.toml", "constraints.txt", "mic_det/cli/install_detectron2.py", "tools/make_env.py")
# In the venv: "made" by this script, so that it may be removed; "busy", while it is written to; "key", once complete
STAMP = "mic_det_env.json"
VERSION = "{}.{}".format(*sys.version_info[:2])
BUILD_TOOL = "setuptools>=77.0.3,<81"  # builds wheels by itself, still has pkg_resources, and is what torch asks for
NO_VERSION = ("No matching distribution found", "ResolutionImpossible", "conflicting dependencies")

# Run in other interpreters; the oldest torch is that of setup.py.
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
    """What went wrong and what to do, in a line or two for the user."""


def ask(python, code, *args):
    """Run `code` in the interpreter `python`, in an empty folder; its last line, or None where it fails."""
    with tempfile.TemporaryDirectory() as empty:
        try:
            command = [str(python), "-c", code, *map(str, args)]
            done = subprocess.run(command, check=False, cwd=empty, capture_output=True, text=True)
        except OSError:  # no such file, or a dangling link
            return None
    return None if done.returncode else (done.stdout.strip().splitlines() or [""])[-1]


def working_pair(python):
    """{"torch": version, "torchvision": version} where the two import together and run an operator, else {}."""
    return json.loads(ask(python, PAIR) or "{}")


def key():
    """What a finished environment depends on: the files that define it and the Python version."""
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
        EnvError: it cannot, but this script did not make it, so that it must not be removed either.
    """
    if not venv.exists() or not any(venv.iterdir()):
        return False
    stamp = read_stamp(venv)
    version = ask(venv / "bin/python", "import sys, pip; print('%d.%d' % sys.version_info[:2])")
    if not (venv / "pyvenv.cfg").is_file():
        problem = "is no virtual environment"
    elif stamp.get("busy"):
        problem = "is incomplete"  # files half written, which pip would take for installed
    elif version is None:
        problem = "does not work"
    elif version != VERSION:
        problem = f"is for Python {version}, not {VERSION}"
    else:
        print(f"continuing with {venv}", flush=True)
        return True
    if not stamp.get("made"):
        raise EnvError(f"{venv} was not made by make env, and {problem}: remove it, then run make env again.")
    print(f"{venv} {problem}: making it anew", flush=True)
    return False


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
    write_stamp(venv, made=True, busy=True)
    options = ["--system-site-packages"] if pair and not outer else []
    if subprocess.run([python, "-m", "venv", *options, str(venv)], check=False).returncode:
        raise EnvError(f"`python -m venv {venv}` failed, as printed above; once that is repaired, run make env again.")
    if pair and outer:  # --system-site-packages would show the packages of the interpreter behind it instead
        folders = [p for p in sys.path if p.endswith("-packages")]
        site = next(venv.glob("lib/python*/site-packages"))
        (site / "outer_environment.pth").write_text("\n".join(folders) + "\n", encoding="utf-8")


def pip_install(python, pins, *args):
    """Run pip install under the constraints `pins`; returns what it printed as errors, "" after success."""
    env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_USER="0")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "constraints.txt")
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        command = [str(python), "-m", "pip", "install", "--constraint", str(file), *args]
        done = subprocess.run(command, check=False, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    return (done.stderr or "pip gave no reason") if done.returncode else ""


def install_packages(python, pair):
    """Install mic_det and its dependencies in the tested versions, or in setup.py's ranges where these don't exist.

    Raises:
        EnvError: pip failed.
    """
    pins = [f"{name}=={version}" for name, version in pair.items()]
    there = [*pair, *json.loads(ask(python, OUTSIDE) or "[]")]  # outside the venv, and kept as it is
    lines = ROOT.joinpath("constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = [x for x in lines if "==" in x and x.split("==")[0].lower() not in there]
    # Builds use the venv's setuptools: setup.py then sees an OpenCV that is there, and nothing is fetched twice.
    project = ["--no-build-isolation", "--use-pep517", "--editable", ".[dev]"] + (["--quiet"] if pair else [])
    if ask(python, CV2) == "damaged":
        project.append("opencv-python-headless")  # there is one that cannot be imported, often for lack of libGL
    errors = pip_install(python, [], "--quiet", BUILD_TOOL) or pip_install(python, tested + pins, *project)
    if any(text in errors for text in NO_VERSION):
        print("not all tested versions exist for this Python: taking the newest that setup.py allows", flush=True)
        errors = pip_install(python, pins, *project)
    if errors:
        raise EnvError(
            "pip could not install the packages, as printed above. Check the network, pip's configuration and the "
            "free disk space,\nthen run make env again: it continues, with what was downloaded already."
        )


def fill(venv):
    """Install what is missing in `venv` and check that it works.

    Raises:
        EnvError: pip or the installer of Detectron2 failed, or what was installed does not work.
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
        write_stamp(venv, made=made)  # pip ended by itself, and cleaned up
        raise
    write_stamp(venv, made=made)
    if not working_pair(python):
        raise EnvError(f"torch and torchvision do not work together in {venv}: remove it and run make env again.")
    if subprocess.run([str(python), str(ROOT / "tools/install_detectron2.py")], check=False).returncode:
        raise EnvError("Detectron2 is missing, see above; make env continues from there.")
    write_stamp(venv, made=made, key=key())
    print(f"{venv} is ready")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment (%(default)s)")
    venv = Path(os.path.abspath(parser.parse_args().venv))
    try:
        if sys.version_info < (3, 9):  # noqa: UP036 - run by what `python3` is
            raise EnvError(f"Python {VERSION} is too old: use 3.9 to 3.12, as in `make env PYTHON=python3.12`.")
        complete = read_stamp(venv).get("key") == key()
        if not complete or ask(venv / "bin/python", PRESENT, f"{ROOT}{os.sep}") is None:
            if not usable(venv):
                create(venv)
            fill(venv)
    except KeyboardInterrupt:
        print("interrupted; run make env again", file=sys.stderr)
        return 130
    except (EnvError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
