"""Recognise YOLO labels: text files, each beside or below ``labels`` of its image, and a file of class names."""

import itertools
import re
from pathlib import Path

import yaml

from ...errors import DataError
from .places import SPLITS, Labelled, image_folders, of_role

NAME_LISTS = ("classes.txt", "obj.names")  # of LabelImg, and of Darknet and CVAT: a class a line


def read_names(file):
    """The mapping of a YOLO data file, which a list of classes becomes too; None where it is neither."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.name in NAME_LISTS:
            return {"names": [line.strip() for line in text.splitlines() if line.strip()]}
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("names"), (list, dict)) else None


def find_yolo(path, role):
    """The file of class names, in the folder or up to two above it, and the folders that have labels."""
    pairs = [(folder, labels) for folder in image_folders(path) if (labels := _label_folder(folder))]
    if not pairs:
        return []
    places = [path, *itertools.islice(path.resolve().parents, 2)]
    files = [f for place in places for f in sorted(place.glob("*.y*ml")) if f.suffix.lower() in (".yaml", ".yml")]
    beside = [path, *(p for pair in pairs for p in (pair[1], pair[1].parent)), *places[1:]]
    files += [place / name for place in beside for name in NAME_LISTS]
    data = next((f for f in files if read_names(f)), None)
    if data is None:
        return []
    chosen, listed = _of_split(pairs, data, path, role)
    left_out = [pair[1] for pair in pairs if pair not in chosen]
    return [Labelled("YOLO", path, pairs=sorted(chosen), yaml=data, listed=listed, left_out=left_out)]


def _label_folder(images):
    """YOLO's folder of labels: the path with ``labels`` instead of its last ``images``, or the folder of the images."""
    parts = list(images.parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    for folder in (Path(*parts), images):
        stems = {f.stem for f in _files(images)}
        if any(f.suffix.lower() == ".txt" and f.stem in stems for f in _files(folder)):
            return folder
    return None


def _files(folder):
    return [f for f in folder.iterdir() if f.is_file()] if folder.is_dir() else []


def _of_split(pairs, data, path, role):
    """The pairs of the split that the data file names for the role, and its images where a text file lists them.

    Where it names none that is here, folders of the split's name; else all, as where ``path`` itself is a split.
    """
    content = read_names(data)
    roots = [data.parent, data.parent / str(content.get("path") or ".")]
    for split in SPLITS[role]:
        named = content.get(split)
        named = [str(n) for n in ([named] if isinstance(named, str) else named if isinstance(named, list) else [])]
        places = [p.resolve() for p in (_moved(n, roots) for n in named) if p is not None]
        lists = [p for p in places if p.is_file()]
        if lists:
            listed = {i.resolve() for f in lists for i in _listed(f, [f.parent, *roots])}
            folders = {i.parent for i in listed}
            return [p for p in pairs if p[0].resolve() in folders], listed
        chosen = [p for p in pairs if any(f in (p[0].resolve(), *p[0].resolve().parents) for f in places)]
        if chosen:
            return chosen, None
    folders = of_role([p[0] for p in pairs], path, role)
    return [p for p in pairs if p[0] in folders], None


def _moved(name, roots):
    """The file or folder of a name that is right on another machine, or from another folder: the longest end of it."""
    parts = [p for p in re.split(r"[/\\]", name) if p not in ("", ".", "..")]
    for candidate in (root / name for root in roots):
        if candidate.exists():
            return candidate
    ends = (root.joinpath(*parts[i:]) for i in range(len(parts)) for root in roots)
    return next((p for p in ends if p.exists()), None)


def _listed(file, roots):
    """Images that a text file lists, a path a line.

    Raises:
        DataError: where one is not there.
    """
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if line.strip():
            found = _moved(line.strip(), roots)
            if found is None:
                raise DataError(f"{file} lists {line.strip()}, which is not there.")
            yield found
