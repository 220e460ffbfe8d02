"""The file of another detector's boxes: reading it, and which image and class each of its entries is for."""

import os
from collections import defaultdict
from dataclasses import dataclass
from typing import Optional

from ..errors import ConfigError, DataError
from .classes import positions
from .coco.annotation_file import is_id, is_number
from .files import read_json

JSON_KEY, CLASSES_KEY = "MODEL.MIC.LABELLER.JSON", "MODEL.MIC.LABELLER.CLASSES"


@dataclass
class LabellerFile:
    """What a labeller's file says: ``boxes`` are dicts of image_id, category_id, bbox (XYWH pixels) and score.

    A whole COCO file also has ``categories``, {id: name}, and ``images``, {id: dict}. Both are None for a bare list.
    """

    path: str
    boxes: list
    categories: Optional[dict] = None
    images: Optional[dict] = None

    @property
    def where(self):
        return f"{JSON_KEY} {self.path}"

    def entry(self, number):
        """How messages name one of the boxes."""
        return f"{self.where}: entry {number} (image {self.boxes[number]['image_id']!r})"


def read_labeller_file(path):
    """A bare list of COCO results, or a whole COCO file whose annotations have scores.

    Raises:
        DataError: where it is missing or no such file, or where an entry lacks a number. It names the entry.
    """
    where = f"{JSON_KEY} {path}"
    content = read_json(path, where, f"{where} is not there. Relative paths are below $DETECTRON2_DATASETS.")
    file = _whole(path, where, content) if isinstance(content, dict) else LabellerFile(path, content)
    if not isinstance(file.boxes, list) or not file.boxes:
        raise DataError(f"{where} lists no boxes: it must be a list of image_id, category_id, bbox and score.")
    for i, x in enumerate(file.boxes):
        problem = _problem(x)
        if problem:
            raise DataError(f"{where}: entry {i} {problem}")
    return file


def _whole(path, where, content):
    parts = {}
    for key, needed in (("annotations", ()), ("images", ("id", "file_name")), ("categories", ("id", "name"))):
        parts[key] = content.get(key)
        if not isinstance(parts[key], list):
            raise DataError(f"{where} has no list {key!r}: write a whole COCO file, or a bare list of results.")
        for x in parts[key] if needed else ():
            if not (isinstance(x, dict) and is_id(x.get("id")) and isinstance(x.get(needed[1]), str)):
                raise DataError(f"{where} has an entry of {key!r} without 'id' or {needed[1]!r}: {str(x)[:120]}")
    categories = {x["id"]: x["name"].strip() for x in parts["categories"]}
    return LabellerFile(path, parts["annotations"], categories, {x["id"]: x for x in parts["images"]})


def _problem(x):
    if not isinstance(x, dict):
        return f"is {str(x)[:80]}: it must have image_id, category_id, bbox and score."
    missing = next((k for k in ("image_id", "category_id", "bbox", "score") if k not in x), None)
    if missing:
        return f"has no {missing!r}: {str(x)[:120]}"
    box, score = x["bbox"], x["score"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        return f"has the bbox {str(box)[:80]}: it must be four numbers [x, y, width, height] in pixels."
    if not (is_number(score) and 0 <= score <= 1):
        return f"has the score {score!r}: it must be a probability in [0, 1]."
    if not (is_id(x["image_id"]) and is_id(x["category_id"])):
        return f"has the image_id {x['image_id']!r} and the category_id {x['category_id']!r}: use numbers or texts."
    return ""


def places_of_classes(file, names, chosen, ids):
    """The index of the model's class of each box; None for a class that is left out.

    Args:
        file (LabellerFile): the file.
        names (list[str]): the model's classes.
        chosen (dict): ``MODEL.MIC.LABELLER.CLASSES``.
        ids (dict): {id: name} that results of the data sets have, for a bare list.

    Raises:
        ConfigError: where ``chosen`` names a class that the model or the file does not have.
        DataError: without ``chosen``, where a box has another class than the model's.
    """
    known = ids if file.categories is None else file.categories
    if chosen:
        of_id = _chosen(file, names, chosen)
        return [of_id.get(x["category_id"]) for x in file.boxes]
    of_id = dict(zip(known, positions(list(known.values()), names)))
    for i, x in enumerate(file.boxes):
        category = x["category_id"]
        if of_id.get(category) is None:
            what = f"{category!r} ({known[category]!r})" if category in known else repr(category)
            raise DataError(
                f"{file.entry(i)} has the category {what}, which is no class of the model. The classes of the model "
                f"are {', '.join(names)}, and the categories are taken to be {_listed(known)}. Map them in "
                f"{CLASSES_KEY}, such as {{{names[0]}: [{category!r}]}}: boxes of other categories then are left out."
            )
    return [of_id[x["category_id"]] for x in file.boxes]


def _chosen(file, names, chosen):
    """{category id: index of the model's class} of ``MODEL.MIC.LABELLER.CLASSES``."""
    by_name = {name: i for i, name in (file.categories or {}).items()}
    of_id = {}
    for name, place in zip(chosen, positions(list(chosen), names)):
        if place is None:
            raise ConfigError(f"{CLASSES_KEY} names {name!r}, but the classes of the model are {', '.join(names)}.")
        for own in chosen[name]:
            category = by_name.get(own, own)
            if file.categories is not None and category not in file.categories:
                raise ConfigError(
                    f"{CLASSES_KEY}.{name} has {own!r}, but {file.path} has the categories {_listed(file.categories)}."
                )
            if of_id.setdefault(category, place) != place:
                raise ConfigError(
                    f"{CLASSES_KEY} gives {own!r} to {names[of_id[category]]!r} and to {name!r}: give it to one class."
                )
    return of_id


def _listed(categories):
    return ", ".join(f"{i!r} ({name})" for i, name in categories.items())


def paths_of_images(file, dicts):
    """The path of the image of each box.

    Args:
        file (LabellerFile): the file.
        dicts (list[dict]): Detectron2's dicts of all target images.

    Raises:
        DataError: where a box belongs to no image or to several; names the box.
    """
    find = _by_id(file, dicts) if file.images is None else _by_name(file, dicts)
    examples = f"DATASETS.TARGET has images such as {dicts[0]['image_id']!r} ({dicts[0]['file_name']})"
    paths = []
    for i, x in enumerate(file.boxes):
        if file.images is not None and x["image_id"] not in file.images:
            raise DataError(f"{file.entry(i)} belongs to an image that the file does not list.")
        found = find(x["image_id"])
        if not found:
            name = f" ({file.images[x['image_id']]['file_name']})" if file.images is not None else ""
            hint = "" if file.images else " A whole COCO file, whose images have file names, needs no ids."
            raise DataError(f"{file.entry(i)}{name} belongs to no target image: {examples}.{hint}")
        if len(found) > 1:
            raise DataError(
                f"{file.entry(i)} may belong to {found[0]} or to {found[1]}: write a whole COCO file, whose images "
                "have file names with their folders."
            )
        paths.append(found[0])
    return paths


def _by_id(file, dicts):
    paths = defaultdict(list)
    for x in dicts:
        if x["file_name"] not in paths[x["image_id"]]:
            paths[x["image_id"]].append(x["file_name"])
    return lambda image_id: paths.get(image_id)


def _by_name(file, dicts):
    """By the file's name, and by as many folders above it as agree."""
    paths = defaultdict(list)
    for path in dict.fromkeys(x["file_name"] for x in dicts):
        paths[os.path.basename(path)].append(path)
    found = {}
    for image_id, image in file.images.items():
        wanted = image["file_name"].replace("\\", "/").split("/")
        candidates = [(_common_tail(wanted, path.replace(os.sep, "/").split("/")), path) for path in paths[wanted[-1]]]
        most = max((n for n, _ in candidates), default=0)
        found[image_id] = [path for n, path in candidates if n == most]
    return found.get


def _common_tail(a, b):
    same = [x == y for x, y in zip(reversed(a), reversed(b))]
    return same.index(False) if False in same else len(same)
