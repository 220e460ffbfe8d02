"""COCO annotation files: read, and checked for what no reading can make sense of."""

import math

from ...errors import DataError
from ...utils.printable import printable
from ..files import read_json


def read_coco(name, path, labelled=True):
    """Parse a COCO file and check that it has images.

    Args:
        name (str): the data set's, named in errors.
        labelled (bool): False for a target set, whose images alone are used: they need no id.

    Raises:
        DataError: where the file is missing, no JSON, or its images lack an id or a file name.
    """
    missing = f"{name}: there is no annotation file {path}. Set DATASETS.CUSTOM.{name}.JSON."
    content = read_json(path, f"{name}: {path}", missing)
    images = content.get("images") if isinstance(content, dict) else None
    if not images or not isinstance(images, list):
        raise DataError(f"{name}: {path} lists no images; a COCO file needs a non-empty list 'images'.")
    fields = {"id": is_id, "file_name": is_name} if labelled else {"file_name": is_name}
    check_entries(f"{name}: {path}", "images", images, fields)
    return content


def is_labelled(content):
    """Whether a COCO file has boxes and classes at all."""
    return "annotations" in content and "categories" in content


def check_annotated(name, path, content):
    """Fields of an annotated file that everything else relies on; the first offender is named.

    Args:
        content (dict): what :func:`read_coco` returns, with ``annotations`` and ``categories``.

    Raises:
        DataError: fields that are missing or of a wrong type, ids of images or categories that are there twice.
    """
    where = f"{name}: {path}"
    check_entries(where, "images", content["images"], {"width": is_size, "height": is_size})
    check_categories(name, path, content)
    fields = {"image_id": is_id, "category_id": is_id, "bbox": is_anything}
    check_entries(where, "annotations", content["annotations"], fields)


def check_categories(name, path, content):
    """
    Raises:
        DataError: where a file defines no classes, or two of one name.
    """
    where, categories = f"{name}: {path}", content["categories"]
    check_entries(where, "categories", categories, {"id": is_id, "name": is_class_name})
    if not categories:
        raise DataError(f"{where} defines no classes: fill 'categories', or leave it out if the set is unlabelled.")
    seen = {}
    for x in categories:
        other = seen.setdefault(x["name"].strip(), x["id"])
        if other != x["id"]:
            raise DataError(
                f"{where} has two categories of the name {x['name'].strip()!r} (ids {other!r} and {x['id']!r}): "
                "give the boxes of both one category, or rename one."
            )


def check_entries(where, key, entries, fields):
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
        if "id" in fields:
            if entry["id"] in seen:
                raise DataError(f"{where} has the id {entry['id']} twice in {key!r}: ids must be unique.")
            seen.add(entry["id"])


def is_integer(value):
    """a whole number"""
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value):
    """a whole number or text"""
    return is_integer(value) or isinstance(value, str) or isinstance(value, float) and value.is_integer()


def is_name(value):
    """text without NUL and halves of surrogate pairs"""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # it can neither name a file nor be written to a log
        return False
    return True


def is_class_name(value):
    """text without control characters"""
    return is_name(value) and printable(value) == value


def is_size(value):
    """a positive whole number of pixels"""
    return is_number(value) and value == int(value) and value > 0


def is_number(value):
    """a finite number"""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9 and math.isfinite(value)


def is_anything(value):
    """anything"""
    return True
