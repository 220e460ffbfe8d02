"""COCO annotation files: read, and checked for what would fail late or silently spoil a training."""

import json
import math
from pathlib import Path

from .errors import DataError


def read_coco(name, path):
    """Parse a COCO file and check that it has images.

    Args:
        name (str): the data set's, told in errors.

    Raises:
        DataError: where the file is missing, no JSON, or its images lack an id or a file name.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{name}: there is no annotation file {path}. Set DATASETS.DECLARED.{name}.JSON.") from None
    except (OSError, ValueError, RecursionError) as e:
        raise DataError(f"{name}: {path} is not a readable JSON file ({e}).") from e
    images = content.get("images") if isinstance(content, dict) else None
    if not images or not isinstance(images, list):
        raise DataError(f"{name}: {path} lists no images; a COCO file needs a non-empty list 'images'.")
    where = f"{name}: {path}"
    _check_entries(where, "images", images, {"id": _is_id, "file_name": _is_name})
    return content


def check_annotated(name, path, content):
    """Sizes, categories and boxes of an annotated file; the first offender is named.

    Args:
        content (dict): what :func:`read_coco` returns, with ``annotations`` and ``categories``.

    Raises:
        DataError: fields that are missing or of a wrong type, ids that are there twice, boxes without a
            positive area or outside their image.
    """
    where = f"{name}: {path}"
    _check_entries(where, "images", content["images"], {"width": _is_size, "height": _is_size})
    _check_entries(where, "categories", content["categories"], {"id": _is_integer, "name": _is_name})
    fields = {"id": _is_id, "image_id": _is_id, "category_id": _is_id, "bbox": _is_anything}
    _check_entries(where, "annotations", content["annotations"], fields)
    if not content["categories"]:
        raise DataError(f"{where} defines no classes: fill 'categories', or leave it out if the set is unlabelled.")
    problem = next(box_problems(name, path, content), None)
    if problem:
        raise DataError(problem)


def box_problems(name, path, content):
    """One message for each annotation of a COCO file that cannot be used."""
    images = {x["id"]: x for x in content["images"]}
    categories = {x["id"] for x in content["categories"]}
    for annotation in content["annotations"]:
        problem = _box_problem(annotation, images, categories)
        if problem:
            yield f"{name}: annotation {annotation.get('id')} of {path} {problem}"


def _box_problem(annotation, images, categories):
    image, box = images.get(annotation["image_id"]), annotation["bbox"]
    if image is None:
        return f"belongs to image {annotation['image_id']}, which the file does not list."
    if annotation["category_id"] not in categories:
        return f"has category {annotation['category_id']}, which the file does not define."
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(v) for v in box):
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


def _check_entries(where, key, entries, fields):
    """``entries`` must be a list of dicts with ``fields`` that pass their tests, and no id twice."""
    if not isinstance(entries, list):
        raise DataError(f"{where}: {key!r} must be a list; it is {str(entries)[:120]}.")
    seen = set()
    for entry in entries:
        missing = next((f for f in fields if not isinstance(entry, dict) or f not in entry), None)
        if missing:
            raise DataError(f"{where} has an entry of {key!r} without {missing!r}: {str(entry)[:120]}")
        wrong = next((f for f, test in fields.items() if not test(entry[f])), None)
        if wrong:
            what = fields[wrong].__doc__
            raise DataError(
                f"{where} has an entry of {key!r} whose {wrong!r} is {entry[wrong]!r}, not {what}: {str(entry)[:120]}"
            )
        if "id" in fields and entry["id"] in seen:
            raise DataError(f"{where} has the id {entry['id']} twice in {key!r}: ids must be unique.")
        seen.add(entry.get("id"))


def _is_integer(value):
    """a whole number"""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value):
    """a whole number or text"""
    return _is_integer(value) or isinstance(value, str)


def _is_name(value):
    """text without NUL and halves of surrogate pairs"""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # it can neither name a file nor be written to a log
        return False
    return True


def _is_size(value):
    """a positive whole number of pixels"""
    return isinstance(value, (int, float)) and math.isfinite(value) and value == int(value) and value > 0


def _is_anything(value):
    """anything"""
    return True


def _is_finite(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
