"""Pascal VOC and YOLO labels as COCO. The supervision library reads them; its boxes are compared with the files."""

import json
import math
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from PIL import Image

from ...errors import DataError
from ..files import IMAGE_SUFFIXES, is_hidden, list_files
from ..pixels import upright_size
from .yolo import read_names

EXTRA = "pip install supervision"
FAR = 2.0  # pixels: files count pixels from 0 or from 1, and round coordinates


def to_coco(found):
    """
    Args:
        found (Labelled): a folder with Pascal VOC or YOLO labels.

    Returns:
        (dict, list[str]): a COCO file's content, with file names relative to ``found.path``; and notes for the user.

    Raises:
        DataError: where supervision is missing or cannot read the labels, or where its boxes differ from the files.
    """
    read, truth = (_read_voc, _voc_truth) if found.kind == "Pascal VOC" else (_read_yolo, _yolo_truth)
    images, annotations, notes = [], [], Counter()
    boxes_of = {}  # image -> [(class, xyxy, crowd)]
    sizes, label_of, suffix = {}, {}, ".xml" if found.kind == "Pascal VOC" else ".txt"
    for image_folder, label_folder in found.pairs:
        there = _images(found, image_folder)
        _check_labels(found, label_folder, suffix, there)
        dataset = read(found, image_folder, label_folder)
        known = {Path(p).name: p for p in dataset.annotations}
        for file in there:
            label = label_folder / f"{file.stem}{suffix}"
            if not label.is_file():
                notes["without"] += 1
                if found.kind == "YOLO":
                    boxes_of[file], sizes[file] = [], _size(file)
                continue
            if label_of.setdefault(file, label) != label:
                raise DataError(f"{file} has two label files, {label_of[file]} and {label}: remove one of them.")
            if file.name not in known:
                raise DataError(f"{file}: supervision does not read this kind of image. Save it as .png or .jpg.")
            detections = dataset.annotations[known[file.name]]
            names = [dataset.classes[i] for i in ([] if detections.class_id is None else detections.class_id)]
            names = [name.strip() for name in names]
            boxes = [[float(v) for v in box] for box in detections.xyxy]
            sizes[file], expected = truth(found, label, file)
            _compare(label, expected, names, boxes)
            boxes_of[file] = [(c, box, e[2]) for c, box, e in zip(names, boxes, expected)]
            notes["difficult"] += sum(e[2] for e in expected)
    classes = _classes(found, boxes_of)
    for file, boxes in boxes_of.items():
        width, height = sizes[file]
        path = file.relative_to(found.path).as_posix()
        images.append({"id": len(images) + 1, "file_name": path, "width": width, "height": height})
        for name, (x0, y0, x1, y1), crowd in boxes:
            box = [max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)]
            box = [round(box[0], 3), round(box[1], 3), round(box[2] - box[0], 3), round(box[3] - box[1], 3)]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": len(images), "category_id": classes.index(name) + 1,
                 "bbox": box, "area": round(box[2] * box[3], 3), "iscrowd": int(crowd)}
            )  # fmt: skip
    if not annotations:
        raise DataError(f"{found.path}: its {found.kind} labels have no box.")
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}, _notes(found, notes)


def _images(found, folder):
    """The images of a folder that belong to the set."""
    files = (f for f in sorted(folder.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(f.name))
    return [f for f in files if f.is_file() and (found.listed is None or f.resolve() in found.listed)]


def _check_labels(found, folder, suffix, images):
    """
    Raises:
        DataError: where a label file would be left out without a word.
    """
    files = [f for f in list_files(folder, {suffix}) if f.parent == folder]
    stems = {f.stem for f in images}
    odd = next((f for f in files if f.suffix != suffix and f.stem in stems), None)
    if odd:
        raise DataError(f"{odd}: supervision reads {suffix} in small letters alone. Rename these files.")
    lost = [f for f in files if f.stem not in stems]
    if lost and found.kind == "Pascal VOC":  # text files may be anything
        raise DataError(f"{len(lost)} files of labels in {folder} have no image, such as {lost[0].name}: remove them.")


def _notes(found, counts):
    told = []
    if found.left_out:
        told.append(f"folders of other splits are left out: {', '.join(map(str, found.left_out))}.")
    if counts["without"]:
        what = "are left out" if found.kind == "Pascal VOC" else "count as images without objects"
        told.append(f"{counts['without']} images without a label file {what}.")
    if counts["difficult"]:
        told.append(f"{counts['difficult']} boxes are marked difficult: training and AP ignore them.")
    return told


def _compare(label, expected, names, boxes):
    """Compare the library's boxes with those of the file: the same classes and places in the same order.

    Raises:
        DataError: where one is lost, renamed or moved.
    """
    if len(boxes) != len(expected):
        raise DataError(
            f"{label} has {len(expected)} boxes, but supervision reads {len(boxes)}: nothing was converted."
        )
    for number, ((name, box, _), got_name, got) in enumerate(zip(expected, names, boxes), 1):
        if name != got_name or any(abs(a - b) > FAR for a, b in zip(box, got)):
            raise DataError(
                f"{label}, box {number} is {name} at {_text(box)}, but supervision reads {got_name} at {_text(got)}: "
                "nothing was converted."
            )


def _text(box):
    return "(" + ", ".join(f"{v:.1f}" for v in box) + ")"


def _classes(found, boxes_of):
    """Names of the classes: for YOLO those of the data file, in its order; for Pascal VOC all that occur, sorted."""
    if found.kind == "YOLO":
        return list(_yolo_names(found).values())
    return sorted({name for boxes in boxes_of.values() for name, _, _ in boxes})


def _supervision():
    try:
        import supervision
    except ImportError as e:
        raise DataError(f"Pascal VOC and YOLO labels need the supervision library ({e}): run `{EXTRA}`.") from e
    return supervision


def _read(found, reader, *args):
    try:
        return reader(*map(str, args))
    except Exception as e:  # broken files cause errors of all kinds
        text = " ".join(str(e).split())[:300]
        raise DataError(
            f"{found.path}: supervision cannot read these {found.kind} labels: {text or type(e).__name__}"
        ) from e


def _size(file):
    """(width, height) of the image turned upright by its EXIF tag, as programs show it."""
    try:
        with Image.open(file) as opened:
            return upright_size(opened)
    except Exception as e:  # PIL's decoders raise errors of all kinds for broken files
        raise DataError(f"{file} cannot be opened as an image ({' '.join(str(e).split()) or type(e).__name__}).") from e


# ---------------------------------------------------------------------------------------- Pascal VOC


def _read_voc(found, images, labels):
    return _read(found, _supervision().DetectionDataset.from_pascal_voc, images, labels)


def _voc_truth(found, label, image):
    """(width, height) that the labels refer to, and (class, [x0, y0, x1, y1], difficult) of each object."""
    content = label.read_bytes()
    if b"<!ENTITY" in content.replace(b"\0", b""):
        raise DataError(f"{label} defines XML entities, which are refused: remove them.")
    try:
        root, boxes = ElementTree.fromstring(content), []
        size = tuple(int(float(root.findtext(f"size/{k}") or 0)) for k in ("width", "height"))
        for x in root.findall("object"):
            x0, y0, x1, y1 = (float(x.find("bndbox").findtext(k)) for k in ("xmin", "ymin", "xmax", "ymax"))
            box = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
            boxes.append((x.findtext("name").strip(), box, (x.findtext("difficult") or "0").strip() == "1"))
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as e:
        raise DataError(f"{label} is not a Pascal VOC file ({' '.join(str(e).split())}).") from e
    return size if min(size) > 0 else _size(image), boxes


# ---------------------------------------------------------------------------------------------- YOLO


def _read_yolo(found, images, labels):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "names.yaml"  # what supervision takes; JSON is YAML
        content = {k: v for k, v in read_names(found.yaml).items() if k == "kpt_shape"}
        file.write_text(json.dumps({**content, "names": _yolo_names(found)}), encoding="utf-8")
        return _read(found, _supervision().DetectionDataset.from_yolo, images, labels, file)


def _yolo_names(found):
    """Class number -> name, from the data file."""
    names = read_names(found.yaml)["names"]
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    try:
        return {int(k): str(v) for k, v in sorted(pairs, key=lambda p: int(p[0]))}
    except (TypeError, ValueError) as e:
        raise DataError(f"{found.yaml}: names must be a list, or have whole numbers as keys ({e}).") from e


def _yolo_truth(found, label, image):
    """(width, height), and (class, [x0, y0, x1, y1], False) of each line, in pixels."""
    names, boxes = _yolo_names(found), []
    width, height = _size(image)
    keypoints = math.prod(read_names(found.yaml).get("kpt_shape") or (0,))
    for number, line in enumerate(label.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        values = line.split()
        if not values:
            continue
        try:
            name, numbers = names[int(float(values[0]))], [float(v) for v in values[1:]]
        except (KeyError, ValueError) as e:
            raise DataError(f"{label}, line {number}: {e} is not a class of {found.yaml}, or not a number.") from e
        if len(numbers) < 4 or not all(map(math.isfinite, numbers)):
            raise DataError(f"{label}, line {number}: a class and four finite numbers are needed.")
        if len(numbers) in (4, 5, 4 + keypoints):
            x, y, w, h = numbers[:4]
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        else:  # a polygon
            box = [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]
        boxes.append((name, [v * side for v, side in zip(box, (width, height) * 2)], False))
    return (width, height), boxes
