"""Recognise the format of a folder of labelled images: COCO, Pascal VOC or YOLO."""

import itertools
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ...errors import DataError
from ..files import list_files, list_images

SPLITS = {"train": ("train",), "test": ("val", "valid", "test")}  # role -> names of its split
SAMPLE = 50  # at most this number of a COCO file's images are looked for
MOST_JSON = 40  # a folder with more JSON files has one for each image, so they are not COCO's
LOOKED_FOR = (
    "COCO (a .json with images, annotations and categories), Pascal VOC (.xml files with <annotation>), YOLO (.txt "
    "files beside a .yaml with names)"
)


@dataclass
class Labelled:
    """A labelled folder. COCO has ``json`` and ``images``; the others have ``pairs`` of folders, images and labels."""

    kind: str  # "COCO", "Pascal VOC" or "YOLO"
    path: Path
    json: Path = None
    images: Path = None
    pairs: list = field(default_factory=list)
    yaml: Path = None

    def describe(self):
        """One line for the plan."""
        where = self.json or self.yaml or self.path
        return f"{self.kind}, {where}"


def recognise(path, role, argument):
    """
    Args:
        path (path): a folder, or a COCO file.
        role (str): "train" or "test": which split is taken where there are several.
        argument (str): the name of the user's argument, for messages: "SOURCE".

    Returns:
        Labelled

    Raises:
        DataError: where no format or more than one is recognised; lists what was looked for and found.
    """
    path = Path(os.path.expanduser(path))
    if path.is_file() and path.suffix.lower() == ".json":
        if not _is_labelled_coco(path):
            raise DataError(f"{argument} {path} is not a COCO file with images, annotations and categories.")
        return _coco(path, path.parent, argument)
    if not path.is_dir():
        raise DataError(f"{argument} {path}: there is no such folder" + (" (it is a file)." if path.exists() else "."))
    found = [*_find_coco(path, role, argument), *_find_voc(path), *_find_yolo(path, role)]
    if len(found) > 1:
        names = "; ".join(f.describe() for f in found)
        raise DataError(
            f"{argument} {path} has labels of {len(found)} kinds ({names}): name a folder or a .json file of one kind."
        )
    if not found:
        raise DataError(
            f"{argument} {path} has no labels that can be read. Expected: {LOOKED_FOR}. Found: {_census(path)}."
        )
    return found[0]


def _census(path):
    """The number of files of each ending in a folder."""
    counts = Counter(Path(f).suffix.lower() or "no ending" for _, _, files in os.walk(path) for f in files)
    return ", ".join(f"{n} x {suffix}" for suffix, n in counts.most_common(6)) or "no files"


# ---------------------------------------------------------------------------------------------- COCO


def _is_labelled_coco(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    lists = [content.get(k) for k in ("images", "annotations", "categories")] if isinstance(content, dict) else [None]
    return all(isinstance(x, list) and x for x in lists)


def _find_coco(path, role, argument):
    files = list_files(path, {".json"})
    if len(files) > MOST_JSON:
        return []
    files = [f for f in files if _is_labelled_coco(f)]
    if len(files) > 1:
        fitting = [f for f in files if any(split in f.stem.lower() for split in SPLITS[role])]
        if len(fitting) != 1:
            names = ", ".join(str(f.relative_to(path)) for f in files[:6])
            raise DataError(f"{argument} {path} has {len(files)} COCO files ({names}): name one of them.")
        files = fitting
    return [_coco(f, path, argument) for f in files]


def _coco(file, folder, argument):
    """A COCO set, with the folder that its file names are relative to. COCO does not name this folder."""
    images = [x for x in json.loads(file.read_text(encoding="utf-8-sig"))["images"] if isinstance(x, dict)]
    names = [str(x.get("file_name")) for x in images[:: -(-len(images) // SAMPLE)]]
    places = dict.fromkeys([file.parent, file.parent / "images", folder, folder / "images"])
    places.update(dict.fromkeys(_sub_folders(folder)))
    if folder != file.parent.parent and file.parent.name in ("annotations", "labels"):
        places.update(dict.fromkeys(_sub_folders(file.parent.parent)))
    best = max(places, key=lambda place: sum((place / name).is_file() for name in names))
    missing = [name for name in names if not (best / name).is_file()]
    if len(missing) == len(names):
        raise DataError(
            f"{argument} {file}: its images, such as {names[0]}, are not below {folder}. Put them beside the file, or "
            "into a folder named images."
        )
    return Labelled("COCO", folder, json=file, images=best)


def _sub_folders(folder, deep=3):
    """A folder and those below it, except hidden ones."""
    for place, folders, _ in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if len(Path(place).relative_to(folder).parts) >= deep:
            folders[:] = []
        yield Path(place)


# ---------------------------------------------------------------------------------------- Pascal VOC


def _find_voc(path):
    """Folders of XML files, each with the folder of its images, which has the most names in common with it."""
    labels = {}
    for file in list_files(path, {".xml"}):
        labels.setdefault(file.parent, []).append(file)
    labels = {folder: files for folder, files in labels.items() if _is_voc(files[0])}
    if not labels:
        return []
    images = _image_folders(path)
    pairs = []
    for folder, files in labels.items():
        stems = {f.stem for f in files}
        near = sorted(images, key=lambda place: (-len(stems & images[place]), str(place)))
        if not near or not stems & images[near[0]]:
            raise DataError(f"{path} has no images for the XML files in {folder}, such as {files[0].name}.")
        pairs.append((near[0], folder))
    return [Labelled("Pascal VOC", path, pairs=pairs)]


def _is_voc(file):
    try:
        head = file.read_text(encoding="utf-8", errors="replace")[:4000]
    except OSError:
        return False
    return "<annotation" in head


def _image_folders(path):
    """Folder -> names of its images without their endings."""
    found = {}
    for file in list_images(path):
        found.setdefault(file.parent, set()).add(file.stem)
    return found


# ---------------------------------------------------------------------------------------------- YOLO


def read_names(file):
    """The content of a YOLO data file; None where the file is something else."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("names"), (list, dict)) else None


def _find_yolo(path, role):
    """The data file, which is in the folder or at most two above it, and the folders that have labels."""
    places = [path, *itertools.islice(path.resolve().parents, 2)]
    files = (f for place in places for f in sorted(place.glob("*.y*ml")) if f.suffix.lower() in (".yaml", ".yml"))
    data = next((f for f in files if read_names(f)), None)
    if data is None:
        return []
    pairs = [(folder, labels) for folder in _image_folders(path) if (labels := _label_folder(folder))]
    if not pairs:
        return []
    return [Labelled("YOLO", path, pairs=sorted(_of_split(pairs, data, path, role)), yaml=data)]


def _label_folder(images):
    """YOLO's folder of labels: the path with ``labels`` instead of its last ``images``, or the folder of the images."""
    parts = list(images.parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    for folder in (Path(*parts), images):
        if any(f.suffix.lower() == ".txt" and f.name != "classes.txt" for f in _files(folder)):
            return folder
    return None


def _files(folder):
    return [f for f in folder.iterdir() if f.is_file()] if folder.is_dir() else []


def _of_split(pairs, data, path, role):
    """The pairs of the split that the data file names for the role. Where none of them is below ``path``: all."""
    content = read_names(data)
    root = Path(str(content.get("path") or "."))
    root = root if root.is_absolute() and root.is_dir() else data.parent / root
    for split in SPLITS[role]:
        named = content.get(split)
        named = [named] if isinstance(named, str) else named if isinstance(named, list) else []
        folders = [
            p.resolve() for n in named for p in (root / str(n), data.parent / str(n).replace("../", "")) if p.is_dir()
        ]
        chosen = [p for p in pairs if any(f in (p[0].resolve(), *p[0].resolve().parents) for f in folders)]
        if chosen:
            return chosen
    return pairs
