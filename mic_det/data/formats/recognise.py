"""Recognise the format of a folder of labelled images: COCO, Pascal VOC or YOLO."""

import itertools
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ...errors import DataError
from ..files import list_files, list_images

SPLITS = {"train": ("train",), "test": ("val", "valid", "test")}  # role -> names of its split
NAME_LISTS = ("classes.txt", "obj.names")  # of LabelImg, and of Darknet and CVAT: a class a line
SAMPLE = 50  # at most this number of a COCO file's images are looked for
MOST_JSON = 40  # a folder with more JSON files has one for each image, so they are not COCO's
LOOKED_FOR = (
    "COCO (a .json with images, annotations and categories), Pascal VOC (.xml files with <annotation>), YOLO (.txt "
    "files beside a .yaml with names, or a classes.txt)"
)


@dataclass
class Labelled:
    """A labelled folder. COCO has ``json`` and ``images``; the others have ``pairs`` of folders, images and labels."""

    kind: str  # "COCO", "Pascal VOC" or "YOLO"
    path: Path
    json: Path = None
    images: Path = None
    pairs: list = field(default_factory=list)
    yaml: Path = None  # where the class names are
    listed: set = None  # images of the split, where a text file lists them
    left_out: list = field(default_factory=list)  # folders of other splits

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
    found = [*_find_coco(path, role, argument), *_find_voc(path, role), *_find_yolo(path, role)]
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


def _split(places, path, role):
    """Those of some paths below ``path`` that belong to a role by the names of their folders or of the file.

    All of them where the names tell of no splits: "train" alone may be anything, such as a class.
    """
    words = {p: _words(p.relative_to(path)) for p in places}
    if sum(any(split in w for w in words.values()) for split in itertools.chain(*SPLITS.values())) > 1:
        for split in SPLITS[role]:
            if chosen := [p for p in places if split in words[p]]:
                return chosen
    return list(places)


def _words(path):
    """``labels/instances_val2017.json`` -> {"labels", "instances", "val", "2017", "json"}."""
    return set(re.findall(r"[^\W\d_]+|\d+", str(path).lower()))


def _image_folder(labels, candidates, argument):
    """The folder of images that labels are of: folders often hold files of the same names, one for each split.

    Args:
        labels (path): a COCO file, or a folder of label files.
        candidates (dict[path, int]): folder of images -> how many of the labels' images are in it.
        argument (str): for messages.

    Returns:
        path: of those with any, the one whose path has most words of the labels' path, then the one with most images.

    Raises:
        DataError: where two are as likely.
    """
    words = _words(labels)
    ranked = sorted(((len(words & _words(p)), n, p) for p, n in candidates.items() if n), key=lambda x: x[:2])
    if len(ranked) > 1 and ranked[-1][:2] == ranked[-2][:2]:
        raise DataError(
            f"{argument}: the images of {labels} may be those in {ranked[-2][2]} or in {ranked[-1][2]}: both have "
            "files of the same names. Name a folder that has only one of them."
        )
    return ranked[-1][2] if ranked else None


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
        fitting = _split(files, path, role)
        if len(fitting) != 1:
            names = ", ".join(str(f.relative_to(path)) for f in files[:6])
            raise DataError(f"{argument} {path} has {len(files)} COCO files ({names}): name one of them.")
        files = fitting
    return [_coco(f, path, argument) for f in files]


def _coco(file, folder, argument):
    """A COCO set, with the folder that its file names are relative to. COCO does not name this folder."""
    images = json.loads(file.read_text(encoding="utf-8-sig"))["images"]
    names = [str(x.get("file_name") if isinstance(x, dict) else x) for x in images[:: -(-len(images) // SAMPLE)]]
    places = dict.fromkeys(_sub_folders(folder))
    if folder != file.parent.parent and file.parent.name in ("annotations", "labels"):
        places.update(dict.fromkeys(_sub_folders(file.parent.parent)))
    near = {place: sum((place / name).is_file() for name in names) for place in (file.parent, file.parent / "images")}
    if len(names) in near.values():  # all of them: whatever else is there
        best = max(near, key=near.get)
    else:
        counts = {place: sum((place / name).is_file() for name in names) for place in places}
        best = _image_folder(file, {**counts, **near}, argument)
    if best is None:
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


def _find_voc(path, role):
    """Folders of XML files, each with the folder of their images: the same, or a sister of it."""
    labels = {}
    for file in list_files(path, {".xml"}):
        labels.setdefault(file.parent, []).append(file)
    labels = {folder: files for folder, files in labels.items() if _is_voc(files[0])}
    if not labels:
        return []
    images = _image_folders(path)
    pairs = []
    for folder in _split(labels, path, role):
        stems = {f.stem for f in labels[folder]}
        place = _image_folder(folder, {p: len(stems & names) for p, names in images.items()}, str(path))
        if place is None:
            example = labels[folder][0].name
            raise DataError(f"{path}: no images of the XML files in {folder}, such as {example}, are below it.")
        pairs.append((place, folder))
    left_out = [folder for folder in labels if folder not in [pair[1] for pair in pairs]]
    return [Labelled("Pascal VOC", path, pairs=pairs, left_out=left_out)]


def _is_voc(file):
    try:
        head = file.read_bytes()[:8000].replace(b"\0", b"")  # of UTF-16 too
    except OSError:
        return False
    return b"<annotation" in head


def _image_folders(path):
    """Folder -> names of its images without their endings."""
    found = {}
    for file in list_images(path):
        found.setdefault(file.parent, set()).add(file.stem)
    return found


# ---------------------------------------------------------------------------------------------- YOLO


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


def _find_yolo(path, role):
    """The file of class names, in the folder or up to two above it, and the folders that have labels."""
    pairs = [(folder, labels) for folder in _image_folders(path) if (labels := _label_folder(folder))]
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
    folders = _split([p[0] for p in pairs], path, role)
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
