"""The ways in which annotation programs write a COCO file otherwise: some mean the same, some cannot be meant.

Each changes a file's content in place, by random numbers where it has a choice. Those that must be refused return parts
of the message.
"""

import copy
import unicodedata
import uuid

from helpers.clean_set import HEIGHT, WIDTH

# ------------------------------------------------------------------------- ways to write the same


def all_annotations(key, value):
    """Set a key of each annotation; ``value`` may be a function of its number and its old value."""

    def change(content, rng):
        for i, a in enumerate(content["annotations"]):
            a[key] = value(i, a.get(key)) if callable(value) else value

    return change


def some_annotations(key, value):
    """Of a random half of the annotations."""

    def change(content, rng):
        for a in content["annotations"]:
            if rng.random() < 0.5:
                a[key] = copy.deepcopy(value)

    return change


def without(key):
    def change(content, rng):
        for a in content["annotations"]:
            a.pop(key, None)

    return change


def image_ids(new):
    def change(content, rng):
        ids = {x["id"]: new(i, x) for i, x in enumerate(content["images"])}
        for x in content["images"]:
            x["id"] = ids[x["id"]]
        for a in content["annotations"]:
            a["image_id"] = ids[a["image_id"]]

    return change


def category_ids(new):
    def change(content, rng):
        ids = {x["id"]: new(i, x) for i, x in enumerate(content["categories"])}
        for x in content["categories"]:
            x["id"] = ids[x["id"]]
        for a in content["annotations"]:
            a["category_id"] = ids[a["category_id"]]

    return change


def names(new):
    def change(content, rng):
        for x in content["categories"]:
            x["name"] = new(x["name"])

    return change


def supercategory(content, rng):
    for x in content["categories"]:
        x["supercategory"] = "vehicles"
    content["categories"].insert(0, {"id": -1, "name": "vehicles", "supercategory": "none"})


def shuffled(key):
    return lambda content, rng: rng.shuffle(content[key])


SAME = {
    "annotation ids from 0": all_annotations("id", lambda i, _: i),
    "annotation ids of text": all_annotations("id", lambda i, _: f"f30{i}-ab"),
    "annotation ids of UUIDs": all_annotations("id", lambda i, _: str(uuid.UUID(int=i * 2**90))),
    "annotation ids of 64 bits": all_annotations("id", lambda i, _: 2**63 - 1 - i),
    "annotation ids of more than 64 bits": all_annotations("id", lambda i, _: 10**25 + i),
    "annotation ids the same": some_annotations("id", 7),
    "annotation ids null": all_annotations("id", None),
    "annotation ids absent": without("id"),
    "image ids of text": image_ids(lambda i, x: f"seq-{i}"),
    "image ids of 19 digits": image_ids(lambda i, x: 10**19 - 1 - 7 * i),
    "image ids of mixed types": image_ids(lambda i, x: i if i % 2 else f"seq-{i}"),
    "image ids from 0": image_ids(lambda i, x: i),
    "image ids negative": image_ids(lambda i, x: -i),
    "image ids with a point": image_ids(lambda i, x: float(i + 1)),
    "no area": without("area"),
    "area null": some_annotations("area", None),
    "area 0": all_annotations("area", 0),
    "area of text": all_annotations("area", lambda i, a: str(a)),
    "no iscrowd": without("iscrowd"),
    "iscrowd null": some_annotations("iscrowd", None),
    "iscrowd false": all_annotations("iscrowd", False),
    "iscrowd '0'": some_annotations("iscrowd", "0"),
    "iscrowd 'False'": some_annotations("iscrowd", "False"),
    "no info": lambda content, rng: content.pop("info", None),
    "info and licenses null": lambda content, rng: content.update(info=None, licenses=None),
    "no segmentation": without("segmentation"),
    "segmentation null": some_annotations("segmentation", None),
    "segmentation empty": some_annotations("segmentation", []),
    "polygon empty": some_annotations("segmentation", [[]]),
    "polygon of two points": some_annotations("segmentation", [[1, 1, 9, 9]]),
    "polygon flat": some_annotations("segmentation", [[1, 1, 5, 5, 9, 9]]),
    "polygon as one list": some_annotations("segmentation", [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]),
    "polygon of an odd number": some_annotations("segmentation", [[1, 1, 9, 1, 9, 9, 4]]),
    "polygon of text": some_annotations("segmentation", [["1", "1", "9", "1", "9", "9"]]),
    "RLE of another size": some_annotations("segmentation", {"counts": [10, 90], "size": [10, 10]}),
    "RLE that is cut": some_annotations("segmentation", {"counts": [10, 90], "size": [HEIGHT, WIDTH]}),
    "RLE without size": some_annotations("segmentation", {"counts": "abc"}),
    "classes in another order": category_ids(lambda i, x: 9 - i),
    "class ids of text": category_ids(lambda i, x: "zyx"[i % 3] + str(i)),
    "class names in capitals": names(str.upper),
    "class names with spaces": names(lambda n: f" {n}  "),
    "an extra first category": supercategory,
    "images in another order": shuffled("images"),
    "annotations in another order": shuffled("annotations"),
}

# ------------------------------------------------------------------------- what must be refused


def one_annotation(key, value):
    """Of the last one, whose entry the message must name."""

    def change(content, rng):
        content["annotations"][-1][key] = value
        return [entry_of(content, -1), key if key != "bbox" else "box"]

    return change


def entry_of(content, index):
    """How messages call an annotation."""
    a = content["annotations"][index]
    number = range(len(content["annotations"]))[index]
    return f"annotation {a['id']} " if "id" in a else f"entry {number} of 'annotations'"


def normalized(content, rng):
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]
    return ["between 0 and 1", entry_of(content, 0).strip()]


def corners(content, rng):
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x, y, x + w, y + h]
    return ["corners (x0, y0, x1, y1)", "annotation"]


def other_type(content, rng):
    """Image ids are text in one place and numbers in the other."""
    for i, x in enumerate(content["images"]):
        for a in content["annotations"]:
            if a["image_id"] == x["id"]:
                a["image_id"] = str(i + 1)
        x["id"] = i + 1
    return [entry_of(content, 0), f"{content['annotations'][0]['image_id']!r} (text)", "(a number)"]


def all_crowds(content, rng):
    all_annotations("iscrowd", 1)(content, rng)
    return ["all 25 boxes are crowds", "damaged"]


def file_twice(content, rng):
    """Two tasks of one image, as labelling programs export them: each has a part of the boxes."""
    first = content["images"][0]
    content["images"].append({**first, "id": "again", "file_name": "./" + first["file_name"]})
    next(a for a in content["annotations"] if a["image_id"] == first["id"])["image_id"] = "again"
    return ["has the file", "but other boxes", "Make them one image"]


def class_twice(content, rng):
    first = content["categories"][-1]
    content["categories"].append({"id": 77, "name": first["name"].strip()})
    return ["two categories of the name", repr(first["name"].strip()), "77"]


def unknown_class(content, rng):
    content["categories"].append({"id": 78, "name": "tram"})
    content["annotations"][0]["category_id"] = 78
    return ["damaged has the classes", "'tram'"]


def file_names(new):
    def change(content, rng):
        for x in content["images"]:
            x["file_name"] = new(x["file_name"])
        return ["is missing", "Is ", "meant", "/Allée_0.png meant"]

    return change


REFUSED = {
    "boxes between 0 and 1": normalized,
    "boxes as corners": corners,
    "image ids of two types": other_type,
    "iscrowd 1 everywhere": all_crowds,
    "iscrowd 'maybe'": one_annotation("iscrowd", "maybe"),
    "iscrowd 2": one_annotation("iscrowd", 2),
    "iscrowd a list": one_annotation("iscrowd", [1]),
    "a class twice": class_twice,
    "a file twice": file_twice,
    "an unknown class": unknown_class,
    "a box without a width": one_annotation("bbox", [1, 2, 0, 9]),
    "a box of text": one_annotation("bbox", ["1", "2", "3", "4"]),
    "an empty box": one_annotation("bbox", []),
    "file names with back-slashes": file_names(lambda n: n.replace("/", "\\")),
    "file names with a drive": file_names(lambda n: "C:\\data\\" + n.replace("/", "\\")),
    "file names of URLs": file_names(lambda n: "https://host.example/a/" + n.replace(" ", "%20") + "?v=1#x"),
    "file names quoted": file_names(lambda n: n.replace(" ", "%20").replace("é", "%C3%A9")),
    "file names in NFD": file_names(lambda n: unicodedata.normalize("NFD", n)),
    "file names in capitals": file_names(lambda n: n.replace("drive", "Drive")),
    "file names with a folder more": file_names(lambda n: f"/home/somebody/images/{n}"),
    "file names with another suffix": file_names(lambda n: n.replace(".png", ".JPG")),
}
