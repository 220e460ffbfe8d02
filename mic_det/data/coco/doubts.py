"""What a COCO file may say, but seldom means: images and boxes that are listed twice, boxes that leave their image."""

import os
from collections import Counter

OUTSIDE_PIXELS, OUTSIDE_SHARE = 2.0, 0.05  # how far a box must reach out, also in parts of the image's side
OUTSIDE_FEWEST = 0.02  # share of boxes; fewer are slips


def doubts(images, annotations, boxes):
    """Compare the entries of a file with each other.

    Args:
        images (list[dict]): the file's.
        annotations (dict): Detectron2's annotations by image id.
        boxes (list[(entry, bbox, width, height)]): name of the entry, its four numbers and its image's size.

    Returns:
        (list[(str, str)], list[str]): problems as (entry, what is wrong), which must be put right; and notes.
    """
    problems, notes = _same_files(images, annotations)
    return problems, notes + _same_boxes(annotations) + _outside(boxes)


def _same_files(images, annotations):
    """A file that two images have is one image: where each has a part of its boxes, those of the other are missing."""
    files = {}
    for x in images:
        files.setdefault(os.path.normpath(x["file_name"]), []).append(x["id"])
    twice = {file: ids for file, ids in files.items() if len(ids) > 1}
    contents = {file: [_counted(annotations[i]) for i in ids] for file, ids in twice.items()}
    different = next((file for file in twice if any(x != contents[file][0] for x in contents[file])), None)
    if different is not None:
        first, second = twice[different][:2]
        return [
            (
                f"image {second}",
                f"has the file {different} of image {first}, but other boxes: what one lists counts as missing in the "
                f"other ({len(twice)} files are listed more than once). Make them one image with all boxes.",
            )
        ], []
    if twice:
        file, ids = next(iter(twice.items()))
        return [], [
            f"{len(twice)} files are listed more than once with the same boxes, such as {file} (ids {ids[:2]})."
        ]
    return [], []


def _counted(annotations):
    return Counter((a["category_id"], *a["bbox"]) for a in annotations)


def _same_boxes(annotations):
    extra, first = 0, ""
    for image_id, entries in annotations.items():
        for (_, *box), count in _counted(entries).items():
            extra += count - 1
            if count > 1:
                first = first or f"{box} of image {image_id}"
    if not extra:
        return []
    return [
        f"{extra} boxes are listed more than once with the same class, such as {first}: each copy counts as an object."
    ]


def _outside(boxes):
    outside = [b for b in boxes if _leaves(*b[1:])]
    if len(outside) <= OUTSIDE_FEWEST * len(boxes):
        return []
    entry, box, width, height = outside[0]
    return [
        f"{len(outside)} of {len(boxes)} boxes reach far out of their image, such as {entry}: {box} in {width} x "
        f"{height} pixels. COCO's boxes are (x, y, width, height) of the upper left corner, not of the centre."
    ]


def _leaves(box, width, height):
    x, y, w, h = box
    return (
        max(-x, x + w - width) > OUTSIDE_PIXELS + OUTSIDE_SHARE * width
        or max(-y, y + h - height) > OUTSIDE_PIXELS + OUTSIDE_SHARE * height
    )
