"""Recognise the format of a folder of labelled images: COCO, Pascal VOC or YOLO."""

import json
import os
from collections import Counter
from pathlib import Path

from ...errors import DataError
from ..files import list_files
from .places import Labelled, image_folder, image_folders, of_role
from .yolo import find_yolo

SAMPLE = 50  # at most this number of a COCO file's images are looked for
MOST_JSON = 40  # a folder with more JSON files has one for each image, so they are not COCO's
LOOKED_FOR = (
    "COCO (a .json with images, annotations and categories), Pascal VOC (.xml files with <annotation>), YOLO (.txt "
    "files beside a .yaml with names, or a classes.txt)"
)


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
    found = [*_find_coco(path, role, argument), *_find_voc(path, role), *find_yolo(path, role)]
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
        fitting = of_role(files, path, role)
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
        best = image_folder(file, {**counts, **near}, argument)
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
    images = image_folders(path)
    pairs = []
    for folder in of_role(labels, path, role):
        stems = {f.stem for f in labels[folder]}
        place = image_folder(folder, {p: len(stems & names) for p, names in images.items()}, str(path))
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
