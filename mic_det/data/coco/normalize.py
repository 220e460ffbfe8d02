"""The one reading of a COCO file, on which loader, check, evaluators, pictures and prediction agree.

What annotation programs leave out or write in their own way is read as what it means, and counted; what cannot be
meant is refused with its entry. Ids of images and classes stay as they are: the evaluator numbers them where its
libraries need numbers.
"""

import os
from collections import Counter
from dataclasses import dataclass, field

from detectron2.structures import BoxMode

from ...errors import DataError
from .annotation_file import check_annotated, is_integer, is_number
from .box_units import box_convention_problem
from .doubts import doubts
from .fields import read_flag, read_segmentation

MANY_CROWDS = 0.25  # share of boxes from which on crowds are reported


@dataclass
class NormalizedCoco:
    """What a COCO file says.

    ``classes`` are in the order of the category ids, which is that of the model's outputs, and ``category_ids``
    theirs in the file. ``annotations`` are Detectron2's, by image id. ``repairs`` say what was read otherwise than
    written, with counts; ``problems`` name what cannot be used.
    """

    images: list
    classes: list
    category_ids: list
    annotations: dict
    repairs: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    unused_parent: str = ""  # a class without boxes that is the supercategory of the others

    def dicts(self, folder):
        """Dataset dicts in Detectron2's format, in the order of the image ids."""
        return [
            {
                "file_name": os.path.join(folder, x["file_name"]),
                "height": int(x["height"]),
                "width": int(x["width"]),
                "image_id": x["id"],
                "annotations": self.annotations[x["id"]],
            }
            for x in self.images
        ]


def normalize_coco(name, path, content):
    """Read the content of an annotated COCO file.

    Args:
        name (str), path: named in messages.
        content (dict): what :func:`~mic_det.data.coco.annotation_file.read_coco` returns, with annotations and
            categories. It is left as it is.

    Returns:
        NormalizedCoco: with all ``problems`` of single entries.

    Raises:
        DataError: where entries lack what everything else relies on.
    """
    check_annotated(name, path, content)
    images = {x["id"]: x for x in content["images"]}
    categories = {c["id"]: i for i, c in enumerate(in_order(content["categories"]))}
    reader = _Reader(images, categories)
    found = {image_id: [] for image_id in images}
    for i, annotation in enumerate(content["annotations"]):
        read = reader.read(i, annotation)
        if read is not None:
            found[annotation["image_id"]].append(read)
    ordered = in_order(content["categories"])
    convention = box_convention_problem(reader.boxes)
    problems = [f"{name}: {path} {convention}"] if convention else []
    doubtful, notes = doubts(content["images"], found, reader.boxes)
    problems += [f"{name}: {entry} of {path} {problem}" for entry, problem in (*reader.all_problems(), *doubtful)]
    return NormalizedCoco(
        images=in_order(content["images"]),
        classes=[c["name"].strip() for c in ordered],
        category_ids=[c["id"] for c in ordered],
        annotations=found,
        repairs=reader.repair_lines() + _renumbered(content["annotations"]) + notes,
        problems=problems,
        unused_parent=_unused_parent(ordered, reader.used),
    )


def read_normalized(name, path, content):
    """As :func:`normalize_coco`, of a file that must be usable.

    Raises:
        DataError: names the first entry that is not.
    """
    normalized = normalize_coco(name, path, content)
    if normalized.problems:
        raise DataError(normalized.problems[0])
    return normalized


class _Reader:
    """Reads one annotation after the other, and counts what it repairs."""

    def __init__(self, images, categories):
        self.images, self.categories = images, categories
        self.image_texts = {_as_text(i): i for i in images}
        self.category_texts = {_as_text(i): i for i in categories}
        self.repairs = {}  # what was repaired -> [number, first entry]
        self.problems, self.types = [], {}
        self.boxes, self.used = [], Counter()

    def read(self, number, annotation):
        """Detectron2's annotation, or None where it cannot be used."""
        entry = f"annotation {annotation['id']}" if "id" in annotation else f"entry {number} of 'annotations'"
        image = self._lookup(entry, annotation, "image_id", self.images, self.image_texts)
        category = self._lookup(entry, annotation, "category_id", self.categories, self.category_texts)
        if image is None or category is None:
            return None
        problem = _box_problem(image, annotation["bbox"])
        crowd = self._read_crowd(entry, annotation)
        if problem is None and crowd is None:
            problem = f"has 'iscrowd' {annotation['iscrowd']!r}: it must be 0 or 1."
        if is_box(annotation["bbox"]):
            self.boxes.append((entry, annotation["bbox"], int(image["width"]), int(image["height"])))
        if problem:
            self.problems.append((entry, problem))
            return None
        self.used[category] += 1
        read = {
            "iscrowd": crowd,
            "bbox": annotation["bbox"],
            "category_id": category,
            "bbox_mode": BoxMode.XYWH_ABS,
        }
        segmentation, repair = read_segmentation(
            annotation.get("segmentation"), int(image["height"]), int(image["width"])
        )
        if repair:
            self._repaired(repair, entry)
        if segmentation is not None:
            read["segmentation"] = segmentation
        area = annotation.get("area")
        if is_number(area) and area > 0:
            read["area"] = area
        else:
            self._repaired("has no usable 'area'; that of its mask or box is taken", entry)
        keypoints = annotation.get("keypoints")
        if isinstance(keypoints, list) and keypoints and len(keypoints) % 3 == 0 and all(map(is_number, keypoints)):
            read["keypoints"] = _shifted(keypoints)
        elif keypoints:
            self._repaired("has 'keypoints' that are no list of (x, y, visibility); left out", entry)
        return read

    def _lookup(self, entry, annotation, key, known, texts):
        value = annotation[key]
        if value in known:
            return known[value]
        kind = "image" if key == "image_id" else "category"
        other = texts.get(_as_text(value))
        if other is not None:
            self.types.setdefault((key, type(value), type(other)), []).append((entry, value, other))
        elif kind == "image":
            self.problems.append((entry, f"belongs to image {value}, which the file does not list."))
        else:
            self.problems.append((entry, f"has category {value}, which the file does not define."))
        return None

    def _read_crowd(self, entry, annotation):
        crowd = read_flag(annotation.get("iscrowd"))
        if crowd is not None and "iscrowd" not in annotation:
            self._repaired("has no 'iscrowd'; it is read as 0", entry)
        elif crowd is not None and not (is_integer(annotation["iscrowd"])):
            self._repaired("has an 'iscrowd' that is not the number 0 or 1; it is converted", entry)
        if crowd == 0 and read_flag(annotation.get("ignore")):
            self._repaired("is marked 'ignore'; read as a crowd, which neither teaches nor counts", entry)
            return 1
        return crowd

    def _repaired(self, what, entry):
        self.repairs.setdefault(what, [0, entry])[0] += 1

    def repair_lines(self):
        return [
            f"{count} annotation{'s'[: count > 1]}: {what} (first: {entry})."
            for what, (count, entry) in self.repairs.items()
        ]

    def all_problems(self):
        """(entry, problem) of each; ids that are only of another type are told of once."""
        for (key, _, _), found in self.types.items():
            entry, value, other = found[0]
            listed = "'images'" if key == "image_id" else "'categories'"
            yield (
                entry,
                f"({len(found)} in all) has the {key} {value!r} ({_type(value)}), while {listed} has {other!r} "
                f"({_type(other)}): write both in one way.",
            )
        yield from self.problems


def in_order(entries):
    """Entries by id, as Detectron2 has them; as in the file where some ids are text."""
    return sorted(entries, key=lambda x: x["id"]) if not any(isinstance(x["id"], str) for x in entries) else entries


def _as_text(value):
    return str(int(value)) if isinstance(value, (int, float)) else value.strip().lstrip("0") or "0"


def _type(value):
    return "text" if isinstance(value, str) else "a number"


def is_box(box):
    """Whether these are four finite numbers."""
    return isinstance(box, list) and len(box) == 4 and all(is_number(v) for v in box)


def _box_problem(image, box):
    if not is_box(box):
        return f"has the bbox {str(box)[:80]}: it must be four numbers [x, y, width, height] in pixels."
    x, y, w, h = box
    if not (w > 0 and h > 0):
        return f"({image['file_name']}) has a box without area: {box}. Remove it."
    if x >= image["width"] or y >= image["height"] or x + w <= 0 or y + h <= 0:
        return (
            f"({image['file_name']}, {image['width']} x {image['height']}) has a box outside the image: {box}. "
            "Boxes are (x, y, width, height) in pixels."
        )
    return None


def _shifted(keypoints):
    """COCO's keypoints are indices of pixels, Detectron2's coordinates."""
    return [v + 0.5 if i % 3 < 2 else v for i, v in enumerate(keypoints)]


def _renumbered(annotations):
    """The line for annotation ids that evaluators cannot take, such as 0, text, or the same twice."""
    ids = [a.get("id") for a in annotations]
    odd = [i for i in ids if not (is_integer(i) and 0 < i < 2**31)]
    seen = Counter(i for i in ids if is_integer(i))
    twice = [i for i, n in seen.items() if n > 1]
    if not odd and not twice:
        return []
    what = [f"{len(odd)} are not whole numbers above 0, such as {odd[0]!r}"] if odd else []
    what += [f"{len(twice)} are listed more than once, such as {twice[0]}"] if twice else []
    return [f"annotation ids are numbered again: of {len(ids)}, {' and '.join(what)}."]


def _unused_parent(categories, used):
    """The class that some programs put before the others as their supercategory, if it has no box."""
    for i, category in enumerate(categories):
        others = [c.get("supercategory") for c in categories if c is not category]
        if others and not used[i] and all(o == category["name"] for o in others):
            return category["name"].strip()
    return ""
