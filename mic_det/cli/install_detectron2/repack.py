"""Make a wheel of Detectron2 from the wheel that contains it. The same input gives the same bytes everywhere."""

import base64
import hashlib
import importlib.metadata
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

COMMIT = "864913f0"
VERSION = f"0.6+mic.{COMMIT}"
DIST_INFO = f"detectron2-{VERSION}.dist-info"
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
    path = Path(__file__).resolve().parents[3] / "LICENSE"
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
