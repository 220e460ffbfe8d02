"""tools/install_detectron2.py on a tiny carrier wheel made here; nothing needs a network, and no torch."""

import base64
import csv
import email
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TOOL = Path(__file__).resolve().parents[2] / "mic_det/cli/install_detectron2/__init__.py"
spec = importlib.util.spec_from_file_location("install_detectron2", TOOL)
tool = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = tool  # dataclasses look their module up there
spec.loader.exec_module(tool)
DIST_INFO = f"detectron2-{tool.VERSION}.dist-info"

PACKAGE = {  # what the fake carrier holds, and below what must come of it
    "Host/__init__.py": "import something_huge\n",
    "Host/detectron2/__init__.py": '__version__ = "0.6"\nfrom Host.detectron2 import engine\n',
    "Host/detectron2/engine/__init__.py": 'import Host.detectron2.layers as l\nNAME = "Host.detectron2"\n',
    "Host/detectron2/layers/__init__.py": "",
    "Host/detectron2/model_zoo/configs/a.yaml": "KEY: [1, 2]\n",
    "host-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: host\nVersion: 1.0\nRequires-Python: <3.0\n",
    "host-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
REPACKED = {
    "detectron2/__init__.py": '__version__ = "0.6"\nfrom detectron2 import engine\n',
    "detectron2/engine/__init__.py": 'import detectron2.layers as l\nNAME = "detectron2"\n',
    "detectron2/layers/__init__.py": "",
    "detectron2/model_zoo/configs/a.yaml": "KEY: [1, 2]\n",
}


def make_carrier(folder, files=None, name="host-1.0-py3-none-any.whl"):
    """Write a wheel with `files` into `folder`; returns its path and the Carrier that describes it."""
    files = dict(files or PACKAGE)
    files["host-1.0.dist-info/RECORD"] = "".join(f"{n},,\n" for n in [*files, "host-1.0.dist-info/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, tool.Carrier("host==1.0", digest, "Host", ("detectron2.engine",), {})


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def snapshot(folder):
    """Every file below `folder` with its size, caches of Python aside."""
    return {p: p.stat().st_size for p in Path(folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts}


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    """A throw-away environment with pip and nothing else."""
    folder = tmp_path_factory.mktemp("env") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


def run_tool(venv, carrier, *args, **env):
    """The tool's main() in the environment `venv`, with the fake carrier."""
    code = f"import sys; sys.path.insert(0, {str(TOOL.parents[1])!r}); import install_detectron2 as t; "
    code += f"sys.exit(t.main({list(map(str, args))!r}, t.Carrier(**{vars(carrier)!r})))"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    clean.update(PIP_CONFIG_FILE=os.devnull, **env)
    return subprocess.run([venv / "bin/python", "-c", code], env=clean, capture_output=True, text=True, check=False)


def pip(venv, *args):
    command = [venv / "bin/python", "-m", "pip", "--disable-pip-version-check", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_repack_undoes_the_prefix_and_takes_nothing_else(tmp_path):
    path, carrier = make_carrier(tmp_path)
    files = contents(tool.repack(path, tmp_path / "out", carrier))
    package = {name: data.decode() for name, data in files.items() if not name.startswith(DIST_INFO)}
    assert package == REPACKED


def test_record_agrees_with_the_files(tmp_path):
    path, carrier = make_carrier(tmp_path)
    files = contents(tool.repack(path, tmp_path / "out", carrier))
    rows = {row[0]: row[1:] for row in csv.reader(files[f"{DIST_INFO}/RECORD"].decode().splitlines())}
    assert rows.pop(f"{DIST_INFO}/RECORD") == ["", ""]
    assert rows.keys() == files.keys() - {f"{DIST_INFO}/RECORD"}
    for name, (digest, size) in rows.items():
        algorithm, _, value = digest.partition("=")
        assert base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)) == hashlib.new(algorithm, files[name]).digest()
        assert int(size) == len(files[name])


def test_metadata(tmp_path):
    path, _ = make_carrier(tmp_path)
    carrier = tool.Carrier("host==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), "Host")
    wheel = tool.repack(path, tmp_path / "out", carrier)
    assert wheel.name == f"detectron2-{tool.VERSION}-py3-none-any.whl"
    (dist,) = importlib.metadata.distributions(path=[str(wheel)])
    assert (dist.metadata["Name"], dist.version) == ("detectron2", tool.VERSION)
    assert re.fullmatch(r"0\.6\+[a-z0-9]+(\.[a-z0-9]+)*", tool.VERSION)  # a local version as PEP 440 has it
    assert dist.metadata["License"] == "Apache-2.0"
    assert {"torch>=1.8", "torchvision", "setuptools<81", "fvcore>=0.1.5,<0.1.6"} <= set(dist.requires)
    files = contents(wheel)
    assert "Apache License" in files[f"{DIST_INFO}/LICENSE"].decode()
    notice = files[f"{DIST_INFO}/NOTICE"].decode()
    assert all(text in notice for text in (carrier.sha256, "host==1.0", "864913f0", "github.com/facebookresearch"))
    tags = email.message_from_bytes(files[f"{DIST_INFO}/WHEEL"])
    assert (tags["Root-Is-Purelib"], tags["Tag"]) == ("true", "py3-none-any")


def test_same_bytes_twice(tmp_path):
    path, carrier = make_carrier(tmp_path)
    first, second = (tool.repack(path, tmp_path / out, carrier).read_bytes() for out in ("a", "b"))
    assert first == second
    with zipfile.ZipFile(tmp_path / "a" / f"detectron2-{tool.VERSION}-py3-none-any.whl") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"Host/detectron2/__init__.py": "import Host.other\n"}, "still names Host"),
        ({"Host/detectron2/__init__.py": "", "Host/detectron2/a.yaml": "Host.detectron2"}, "still names Host"),
        ({"Host/__init__.py": ""}, "has no Host/detectron2/"),
    ],
)
def test_a_carrier_of_another_make_is_refused(tmp_path, files, message):
    path, carrier = make_carrier(tmp_path, files)
    with pytest.raises(tool.InstallError, match=message):
        tool.repack(path, tmp_path / "out", carrier)
    assert not list(tmp_path.glob("out/*"))


def test_build_only_needs_no_dependencies(tmp_path, capsys):
    path, carrier = make_carrier(tmp_path)
    assert tool.main(["--wheel", str(path), "--build-only", str(tmp_path / "out")], carrier) == 0
    assert f"wrote {tmp_path}" in capsys.readouterr().out
    assert len(list(tmp_path.glob("out/detectron2-*.whl"))) == 1


def test_install_keep_force_and_uninstall(venv, tmp_path):
    before = snapshot(venv)
    path, carrier = make_carrier(tmp_path)
    # The real way: pip fetches the carrier by name and hash, here from a folder instead of an index.
    done = run_tool(venv, carrier, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"installed Detectron2 {tool.VERSION}" in done.stdout
    assert ["detectron2", tool.VERSION] in [line.split() for line in pip(venv, "list").stdout.splitlines()]
    added = {p.relative_to(venv).as_posix() for p in snapshot(venv).keys() - before.keys()}
    assert {name for name in added if "/detectron2/" in name} == {
        next(venv.glob("lib/python*/site-packages")).relative_to(venv).as_posix() + "/" + name for name in REPACKED
    }

    kept = run_tool(venv, carrier, "--wheel", tmp_path / "nothing_here.whl")
    assert kept.returncode == 0
    assert "Detectron2 0.6 is installed" in kept.stdout
    forced = run_tool(venv, carrier, "--force", "--wheel", path)
    assert forced.returncode == 0, forced.stderr
    assert "installed" in forced.stdout

    assert pip(venv, "uninstall", "--yes", "detectron2").returncode == 0
    assert snapshot(venv) == before
    assert not list(venv.glob("lib/python*/site-packages/*detectron2*"))


def wrong_hash(tmp_path):
    path, carrier = make_carrier(tmp_path)
    return carrier, {"sha256": "0" * 64}, ["--wheel", path], {}, ["has sha256", "pip download"]


def wrong_hash_from_index(tmp_path):
    _, carrier = make_carrier(tmp_path)
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    return carrier, {"sha256": "0" * 64}, [], env, ["does not have sha256 000", "--wheel"]


def no_network(tmp_path):
    _, carrier = make_carrier(tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "empty")}
    return carrier, {}, [], env, ["could not fetch host==1.0", "check the network", "--wheel FILE"]


def no_such_wheel(tmp_path):
    _, carrier = make_carrier(tmp_path)
    return carrier, {}, ["--wheel", tmp_path / "gone.whl"], {}, ["cannot read", "gone.whl", "No such file"]


def no_torch(tmp_path):
    path, carrier = make_carrier(tmp_path)
    changes = {"dependencies": {"torch": "torch>=1.8", "email": "part-of-python"}}
    return carrier, changes, ["--wheel", path], {}, ["torch>=1.8", "make env"]


def broken_package(tmp_path):
    path, carrier = make_carrier(tmp_path, {**PACKAGE, "Host/detectron2/engine/__init__.py": "1 / 0\n"})
    return carrier, {}, ["--wheel", path], {}, ["not installed", "ZeroDivisionError"]


CASES = [wrong_hash, wrong_hash_from_index, no_network, no_such_wheel, no_torch, broken_package]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_failures_are_explained_and_leave_the_environment_alone(venv, tmp_path, case):
    carrier, changes, args, env, texts = case(tmp_path)
    before = snapshot(venv)
    done = run_tool(venv, tool.Carrier(**{**vars(carrier), **changes}), *args, **env)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert all(text in done.stderr for text in texts), done.stderr
    assert "part-of-python" not in done.stderr
    assert snapshot(venv) == before


def test_a_broken_detectron2_of_someone_else_is_not_overwritten(venv, tmp_path):
    path, carrier = make_carrier(tmp_path)
    theirs = next(venv.glob("lib/python*/site-packages")) / "detectron2"
    theirs.mkdir()
    try:
        (theirs / "__init__.py").write_text("raise ImportError('built for another torch')\n")
        done = run_tool(venv, carrier, "--wheel", path)
        assert done.returncode == 1
        assert "built for another torch" in done.stderr
        assert "--force" in done.stderr
        assert [p.name for p in theirs.iterdir() if p.is_file()] == ["__init__.py"]
        # The same folder, had an earlier run of the tool been killed while writing it, is ours to complete.
        (theirs.parent / tool.UNFINISHED).touch()
        done = run_tool(venv, carrier, "--wheel", path)
        assert done.returncode == 0, done.stderr
        assert not (theirs.parent / tool.UNFINISHED).exists()
    finally:
        pip(venv, "uninstall", "--yes", "detectron2")
        shutil.rmtree(theirs, ignore_errors=True)


def read_only_folders(tmp_path):
    """Folders that nobody may write to here: one without the right, which root ignores, and Linux's /proc."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if not os.access(closed, os.W_OK):
        yield closed
    if Path("/proc/version").exists():
        yield Path("/proc")


def test_read_only_environment_is_noticed_before_downloading(tmp_path, monkeypatch, capsys):
    folders = list(read_only_folders(tmp_path))
    if not folders:
        pytest.skip("this user may write everywhere")
    _, carrier = make_carrier(tmp_path)
    paths = tool.sysconfig.get_path
    carrier = tool.Carrier(**{**vars(carrier), "modules": ("no_such_module",)})
    monkeypatch.setattr(tool, "fetch", lambda *args: pytest.fail("downloaded before looking"))
    monkeypatch.setattr(tool, "check_replaceable", lambda *args: None)  # this Python may have a real one
    for folder in folders:
        monkeypatch.setattr(
            tool.sysconfig, "get_path", lambda name, f=folder: str(f) if name == "purelib" else paths(name)
        )
        assert tool.main([], carrier) == 1
        message = capsys.readouterr().err
        assert f"cannot write to {folder}" in message
        assert "make env" in message


def test_installed_detectron2_is_as_recorded():
    """The real thing in this environment, where it came from this tool: every file has its recorded hash."""
    try:
        dist = importlib.metadata.distribution("detectron2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("no detectron2 with metadata here")
    if "+mic." not in dist.version:
        pytest.skip(f"detectron2 {dist.version} is another one")
    sources = [f for f in dist.files if f.parts[0] == "detectron2" and f.suffix != ".pyc"]
    assert len(sources) == 306
    for file in sources:
        digest = hashlib.sha256(file.locate().read_bytes()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value, file
